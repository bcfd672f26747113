"""What the system reports of the machine: processor, memory, disk. What it does not report is None, never a guess."""

import contextlib
import math
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
_THREADS = Path("/proc/self/task")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def processor_name() -> str:
    """Return the processor's name."""
    for line in _lines(_CPUINFO):
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def num_cores(within_quota: bool = True) -> int:
    """Return how many cores this process may use: those it may run on, and within the container's quota, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota() if within_quota else None
    return cores if quota is None else min(cores, max(1, math.ceil(quota)))


def open_files() -> int:
    """Return how many files this process may have open at once; -1 where there is no limit, or none is known."""
    try:
        import resource
    except ImportError:  # Windows
        return -1
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def load() -> float:
    """Return how many processes ran or waited for a core over the last minute; 0 where the system does not count."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def waited_for_cores() -> float | None:
    """Return the seconds that the threads of this process were ready to run and had no core; None off Linux.

    Of those that live: the sum falls when one ends.
    """
    waited = []
    for path in _THREADS.glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError):  # a thread may end meanwhile
            running, ready, _ = map(int, path.read_text().split())  # nanoseconds on a core and ready without one
            waited += [ready] if running else []
    return sum(waited) / 1e9 if waited else None


def cpu_quota() -> float | None:
    """Return how many cores' time the container grants, which may be half a core; None where it sets no limit."""
    granted = [_granted(folder) for folder in _own_groups()]
    return min((cores for cores in granted if cores is not None), default=None)


def _own_groups() -> list[Path]:
    """List the folders of the control groups of processors that this process is in, and of those around them.

    Inside a container the root that is seen is often its own group already, whatever the path says.
    """
    folders: list[Path] = []
    for line in _lines(_OWN_CGROUPS):
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        names = ("", "unified") if not controllers else (controllers,) if "cpu" in controllers.split(",") else ()
        for root in (_CGROUP_ROOT / name for name in names):
            own = root / path.lstrip("/")
            folders += [own, *(above for above in own.parents if above.is_relative_to(root))]
    return folders


def _granted(folder: Path) -> float | None:
    """Return how many cores' time one control group grants, version 2 or 1; None where it sets no limit."""
    words = " ".join(_lines(folder / "cpu.max")).split()  # "50000 100000", or "max 100000"
    if not words:
        files = (folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
        words = [word for file in files for word in _lines(file)[:1]]
    if len(words) != 2 or not all(word.isdecimal() for word in words) or not int(words[1]):
        return None  # -1 in version 1: no limit
    return int(words[0]) / int(words[1])


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
