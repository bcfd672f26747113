"""What the system reports of the machine: processor, memory, disk. What it does not report is None, never a guess."""

import os
import platform
import sys
import time
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# Limits of the container, if this runs in one: limit, use, and what of the use is only cache. Version 2, then 1.
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "inactive_file"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
        "total_inactive_file",
    ),
)
_BLOCK = 4096


def processor_name() -> str:
    """Return the processor's name."""
    for line in _lines(_CPUINFO):
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Return how many bytes of memory are available without swapping, within the container's limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    in_container = _available_in_container()
    return free if in_container is None else min(free, in_container)


def used_memory() -> int:
    """Return how many bytes of memory this process holds."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def used_gpu_memory() -> int | None:
    """Return how many bytes torch holds on all GPUs; None where it uses none yet. Loads no torch."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda") or not torch.cuda.is_initialized():
        return None
    return sum(torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count()))


def existing_parent(path: Path) -> Path:
    """Return the path itself if it exists, else the nearest folder above it that does."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def sync_rate(folder: Path, seconds: float = 1.0) -> float:
    """Return how many small writes a second the disk of a folder completes (fsync), measured for so long.

    The file that is written is removed again. Raises OSError where the folder cannot be written.
    """
    path = folder / f".tmp-doctor-{os.getpid()}"
    count, started = 0, time.monotonic()
    try:
        with path.open("wb", buffering=0) as file:
            while count < 3 or time.monotonic() < started + seconds:
                file.write(bytes(_BLOCK))
                os.fsync(file.fileno())
                count += 1
    finally:
        path.unlink(missing_ok=True)
    return count / (time.monotonic() - started)


def _available_in_container() -> int | None:
    for limit_file, used_file, stat_file, cache in _CGROUPS:
        limit, used = (next(iter(_lines(Path(file))), "") for file in (limit_file, used_file))
        if limit.isdecimal() and used.isdecimal():
            cached = [line.split()[1] for line in _lines(Path(stat_file)) if line.startswith(f"{cache} ")]
            return max(0, int(limit) - int(used) + int(cached[0] if cached else 0))
    return None


def _lines(path: Path) -> list[str]:
    """Return the lines of a system file, none where it does not exist."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
