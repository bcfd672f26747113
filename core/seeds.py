"""Every random draw is a function of (seed, purpose, index).

It does not depend on batch size, number of workers or processes, or interruptions: each sample has its own
counter-based generator (Philox; Salmon et al. 2011), keyed by seed and purpose and counted by index.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch

_WORD = 2**64


def generator(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """Return the generator of one sample's draws for one purpose; no two streams overlap."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
    key = np.frombuffer(digest, dtype=np.uint64)
    counter = np.array([0, 0, index % _WORD, index // _WORD], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def normal(seed: int, purpose: str, indices: Iterable[int], shape: tuple[int, ...]) -> torch.Tensor:
    """Draw standard normal noise of `shape` for every index, float32 (len(indices), *shape), on the CPU."""
    draws = [each.standard_normal(shape, dtype=np.float32) for each in _generators(seed, purpose, indices)]
    return torch.from_numpy(np.asarray(draws, dtype=np.float32).reshape(len(draws), *shape))


def uniform(seed: int, purpose: str, indices: Iterable[int], shape: tuple[int, ...] = ()) -> torch.Tensor:
    """Draw numbers in [0, 1) for every index, float64 (len(indices), *shape), on the CPU."""
    draws = [each.random(shape) for each in _generators(seed, purpose, indices)]
    return torch.from_numpy(np.asarray(draws, dtype=np.float64).reshape(len(draws), *shape))


def integers(seed: int, purpose: str, indices: Iterable[int], high: int, count: int = 1) -> np.ndarray:
    """Draw `count` whole numbers in [0, high) for every index, int64 (len(indices), count)."""
    draws = [each.integers(0, high, size=count) for each in _generators(seed, purpose, indices)]
    return np.asarray(draws, dtype=np.int64).reshape(len(draws), count)


def torch_generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """Return a CPU torch generator for draws that libraries make themselves, such as weight initialisation."""
    word = generator(seed, purpose, index).integers(0, 2**63, dtype=np.int64)
    return torch.Generator().manual_seed(int(word))


def seed_everything(seed: int, purpose: str) -> None:
    """Seed torch's global generator, from which modules draw their initial weights."""
    torch.manual_seed(int(generator(seed, purpose).integers(0, 2**63, dtype=np.int64)))


def _generators(seed: int, purpose: str, indices: Iterable[int]) -> Iterator[np.random.Generator]:
    """Yield `generator(seed, purpose, index)` for every index: one generator, reset, since making one is slow."""
    one = generator(seed, purpose)
    start = one.bit_generator.state
    for index in indices:
        start["state"]["counter"][2] = int(index) % _WORD
        start["state"]["counter"][3] = int(index) // _WORD
        one.bit_generator.state = start
        yield one
