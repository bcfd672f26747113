"""The machine as its system tells: processor, memory, disk. What cannot be asked is None, never a guess."""

import os
import platform
import sys
import time
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CPUINFO = Path("/proc/cpuinfo")
_STATM = Path("/proc/self/statm")
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
    """Return what the processor calls itself."""
    for line in _lines(_CPUINFO):
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int | None:
    """Return how many bytes of memory can be had without swapping, within the container's limit."""
    known = [_available_in_system(), _available_in_container()]
    return min((value for value in known if value is not None), default=None)


def used_memory() -> int | None:
    """Return how many bytes of memory this process holds; the most it has held, where only that is told."""
    held = next(iter(_lines(_STATM)), "").split()
    if len(held) > 1:
        return int(held[1]) * os.sysconf("SC_PAGE_SIZE")
    if sys.platform != "darwin":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def used_gpu_memory() -> int | None:
    """Return how many bytes torch holds on all GPUs; None where it has not begun to use any. Loads no torch."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda") or not torch.cuda.is_initialized():
        return None
    return sum(torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count()))


def existing_parent(path: Path) -> Path:
    """Return the path itself if it exists, else the nearest folder above it that does."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def sync_rate(folder: Path, seconds: float = 1.0) -> float:
    """Return how many small writes a second the disk below a folder takes for good (fsync), measured for so long.

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


def _available_in_system() -> int | None:
    for line in _lines(_MEMINFO):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
    pages = next((name for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES") if name in names), None)
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE") if pages and "SC_PAGE_SIZE" in names else None


def _available_in_container() -> int | None:
    for limit_file, used_file, stat_file, cache in _CGROUPS:
        limit, used = (next(iter(_lines(Path(file))), "") for file in (limit_file, used_file))
        if limit.isdecimal() and used.isdecimal():
            cached = [line.split()[1] for line in _lines(Path(stat_file)) if line.startswith(f"{cache} ")]
            return max(0, int(limit) - int(used) + int(cached[0] if cached else 0))
    return None


def _lines(path: Path) -> list[str]:
    """Return the lines of a file of the system, none where there is no such file."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
