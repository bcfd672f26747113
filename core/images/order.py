"""In which order samples are seen, a permutation per epoch, and which of them mirrored: functions of the seed alone.

Training reads one endless stream: position k is sample `order(seed, k // n)[k % n]`. Batches are slices of the
stream, so that neither batch size, nor workers, nor interruptions change which sample comes when.
"""

from functools import lru_cache

import numpy as np

from .. import seeds


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """Return the permutation of `num_samples` for one epoch, int64, read-only."""
    order = seeds.generator(seed, "data order", epoch).permutation(num_samples)
    order.flags.writeable = False
    return order


def spread(num_samples: int, count: int, seed: int = 0) -> np.ndarray:
    """Choose `count` samples, or all if there are fewer, in a random but fixed order, int64.

    For looking at a part of a set: the first ones by name would all be of the first class.
    """
    return seeds.generator(seed, "spread").permutation(num_samples)[:count]


def stream(seed: int, start: int, stop: int, num_samples: int) -> np.ndarray:
    """Return the samples at stream positions start … stop-1, int64 (stop - start,)."""
    assert 0 <= start <= stop, f"positions {start} to {stop}"
    assert num_samples > 0, "no samples to order"
    pieces = [np.empty(0, dtype=np.int64)]
    while start < stop:
        epoch, offset = divmod(start, num_samples)
        take = min(stop - start, num_samples - offset)
        pieces.append(epoch_order(seed, epoch, num_samples)[offset : offset + take])
        start += take
    return np.concatenate(pieces)


def mirrored(positions: np.ndarray, seed: int) -> np.ndarray:
    """Say which of the positions (B,) of a stream see the mirrored image: half of them, bool (B,)."""
    return seeds.uniform(seed, "flip", positions).numpy() < 0.5


def pieces(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut rows (N,) into arrays of `size`, the last one of what is left."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]
