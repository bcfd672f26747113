"""How torch's threads on a CPU are set up: how many there are, and how they wait for each other.

Between two parallel regions a thread of GNU OpenMP, which torch uses, spins until the next one. Where another process
wants the core, it spins the time away that the other threads need, and is late itself: with one busy process on two
cores, a training of a small network falls to a quarter of its speed. Not to spin at all costs half of it where nobody
else is busy. So it depends on how long the own threads wait for a core, which Linux tells. No result depends on it.
"""

import os
import threading
from collections.abc import Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor

from . import machine

SPINS = "GOMP_SPINCOUNT"
THREADS = "OMP_NUM_THREADS"
BRIEF = "1000"  # spins, where the system does not tell how long threads wait, or a quota makes spinning dear
_OWN_WAITING = (SPINS, "OMP_WAIT_POLICY")  # What is set of these by the user stays.

_NAME = "ldm-share-cores"
_PERIOD = 1.0  # seconds
_WANTED = 0.25  # seconds that own threads waited for a core in a second, from which on others want the cores
_QUIET = 5  # periods without that, after which threads spin again
_ENOUGH = 1 << 17  # elements, of which torch makes a parallel region


def set_up(environment: MutableMapping[str, str]) -> None:
    """Set what the user did not, before torch is loaded: the number of threads in a quota, and how long they spin."""
    quota = machine.num_cores() < machine.num_cores(within_quota=False)
    if (quota or machine.waited_for_cores() is None) and not _set_by_user(environment):
        environment[SPINS] = BRIEF
    if quota and THREADS not in environment:
        environment[THREADS] = str(machine.num_cores())


def share_cores() -> None:
    """Let torch's threads spin only while no other process wants their cores, from now on in this process."""
    import torch

    running = any(thread.name == _NAME for thread in threading.enumerate())
    if torch.get_num_threads() == 1 or running or _set_by_user(os.environ) or machine.waited_for_cores() is None:
        return
    threading.Thread(target=_watch, args=(threading.Event(),), name=_NAME, daemon=True).start()


def background(name: str, alone: bool = True) -> ThreadPoolExecutor:
    """Return a pool of one thread; alone: in which torch computes with that thread and no others.

    OpenMP would give it a team of its own otherwise. Then there are more threads than cores, none of them spins (see
    `_watch`), and a training that has just two for its operations takes a third longer. Beside a GPU's work a team does
    no harm.
    """
    import torch

    pool = ThreadPoolExecutor(1, thread_name_prefix=name)
    if alone:
        threads = torch.get_num_threads()
        pool.submit(torch.get_num_threads).result()  # Else its first operation would take over this thread's number.
        pool.submit(torch.set_num_threads, 1).result()
        torch.set_num_threads(threads)  # of this thread, and of those that start later
    return pool


def described(environment: Mapping[str, str], threads: int) -> str:
    """Say how many threads there are, on how many cores, and how they wait."""
    cores, quota = machine.num_cores(within_quota=False), machine.cpu_quota()
    limit = f", of which a quota leaves {quota:g}" if quota is not None and quota < cores else ""
    spinning = "spinning while no other process wants the cores"
    waiting = next((f"{name}={environment[name]}" for name in _OWN_WAITING if name in environment), spinning)
    return f"{threads} on {cores} cores{limit}; {waiting}"


def _set_by_user(environment: Mapping[str, str]) -> bool:
    return any(name in environment for name in _OWN_WAITING)


def _watch(stopped: threading.Event) -> None:
    """Keep a team of threads that does nothing while others want the cores.

    Where a process has more OpenMP threads than cores, they spin 100 times and not 300,000 (libgomp's manual, under
    GOMP_SPINCOUNT). OpenMP gives each thread that computes in parallel a team of its own, until it ends.
    """
    before, quiet, released = machine.waited_for_cores() or 0.0, 0, None
    while not stopped.wait(_PERIOD):
        waited = machine.waited_for_cores() or 0.0
        quiet = 0 if waited - before > _WANTED * _PERIOD else quiet + 1
        before = waited
        if quiet == 0 and released is None:
            released = threading.Event()
            threading.Thread(target=_keep_team, args=(released,), name=f"{_NAME}-team", daemon=True).start()
        elif quiet == _QUIET and released is not None:
            released.set()
            released = None


def _keep_team(released: threading.Event) -> None:
    import torch

    torch.ones(_ENOUGH, device="cpu").neg_()
    released.wait()
