"""The C library's allocator, told to keep the memory that tensors give back."""

import ctypes
import os
import platform

# Numbers of mallopt's parameters, from malloc.h of the GNU C library.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_INT = 2**31 - 1
# What users set who have their own mind about it: another allocator, or settings of this one.
_USERS_OWN = ("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX")


def keep_freed_memory() -> bool:
    """Let this process reuse the memory of freed tensors, and return whether that could be set.

    By default the GNU C library hands large blocks back to the system as soon as they are freed, and the next step's
    tensors come as fresh pages, each zeroed at its first touch: a fifth of the time of small networks on a CPU. From
    here on the process keeps the most that it ever needed. Does nothing on other C libraries, and where the environment
    says how memory is to be had.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _USERS_OWN):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_INT) and mallopt(_TRIM_THRESHOLD, _LARGEST_INT))
