"""Two small shards for training and one for validation, for the tests of writing and of reading them."""

from pathlib import Path

import numpy as np
import torch

from ldm.core.latents.fields import ARRAYS
from ldm.core.latents.index import write_index
from ldm.core.latents.shards import LatentSample, write_shard

SHAPE = (3, 4, 5)
NAMES = {"train": ["shard-000000.tar", "shard-000001.tar"], "val": ["val-000000.tar"]}


def make_samples(first: int, count: int, fields: tuple[str, ...] = ARRAYS) -> list[LatentSample]:
    draws = np.random.Generator(np.random.Philox(first))

    def sample(key: int) -> LatentSample:
        arrays = {field: draws.standard_normal(SHAPE).astype(np.float16) for field in fields}
        return LatentSample(arrays, key % 4, f"a/{key}.png")

    return [sample(key) for key in range(first, first + count)]


def write_all(folder: Path, fields: tuple[str, ...] = ARRAYS) -> dict[str, list[LatentSample]]:
    """Write two shards for training and one for validation, and their index."""
    samples = {"train": make_samples(0, 8, fields), "val": make_samples(100, 3, fields)}
    first = write_shard(folder / "shard-000000.tar", 0, samples["train"][:5])
    second = write_shard(folder / "shard-000001.tar", 5, samples["train"][5:])
    held_out = write_shard(folder / "val-000000.tar", 0, samples["val"])
    write_index(folder, {"train": [first, second], "val": [held_out]})
    return samples


def expected(samples: list[LatentSample], field: str) -> torch.Tensor:
    """Return one array of every sample as a batch holds it."""
    return torch.from_numpy(np.stack([sample.arrays[field] for sample in samples])).float()
