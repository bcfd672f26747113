"""Memory on the CPU: reuse what tensors free, and work on a batch in chunks where the whole would not fit."""

import ctypes
import os
import platform
from collections.abc import Iterator

import numpy as np
from torch import Tensor

# Parameter numbers of mallopt, from malloc.h of the GNU C library.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_INT = 2**31 - 1
# Set by users who chose another allocator, or their own settings of this one.
_USER_SETTINGS = (
    "LD_PRELOAD",
    "GLIBC_TUNABLES",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_ARENA_MAX",
)


def keep_freed_memory() -> bool:
    """Let this process reuse the memory of freed tensors. Returns whether the C library accepted the setting.

    By default the GNU C library returns large blocks to the system as soon as they are freed, and the next step's
    tensors come as fresh pages, each zeroed at its first touch: a fifth of the time of small networks on a CPU. From
    here on the process keeps the most that it ever needed. Does nothing on other C libraries, and where the environment
    already configures the allocator.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _USER_SETTINGS):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_INT) and mallopt(_TRIM_THRESHOLD, _LARGEST_INT))


def filled_chunks(total: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the rows of each chunk of a batch, int64 (size,), and how many of them are wanted.

    Matrix products of different heights round differently: the last chunk is filled up with its last row, whose copies
    are to be cut off.
    """
    for start in range(0, total, size):
        count = min(size, total - start)
        yield np.arange(start, start + size).clip(max=start + count - 1), count


def equal_chunks(batch: Tensor, max_size: int) -> tuple[Tensor, ...]:
    """Split a batch (B, ...) into chunks of one size, the largest that divides B and is at most `max_size` ≥ 1.

    Matrix products of different heights round differently; with equal chunks a sample's result does not depend on its
    place in the batch.
    """
    size = next(size for size in range(max(1, min(max_size, len(batch))), 0, -1) if len(batch) % size == 0)
    return batch.split(size)
