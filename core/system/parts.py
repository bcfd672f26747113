"""A batch a few samples at a time, where memory or a cache would not hold all of it."""

from torch import Tensor


def in_parts(batch: Tensor, most: int) -> tuple[Tensor, ...]:
    """Return a batch (B, ...) in parts of at most `most` ≥ 1 samples, all of one size.

    Products of different heights round differently: so a sample's place among the others is of no account.
    """
    size = next(size for size in range(max(1, min(most, len(batch))), 0, -1) if len(batch) % size == 0)
    return batch.split(size)
