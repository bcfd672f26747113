"""How torch's threads on a CPU are set up, which the environment has to say before torch is loaded.

Between two parallel regions a thread of GNU OpenMP, which torch uses, spins until the next one. Where another process
wants the core, it spins the time away that the other threads need, and is late itself: with one busy process on two
cores, a training of a small network fell to a tenth. Waiting for a short while and then sleeping costs little where
nobody else is busy, and not to spin at all is best where several others are. No result depends on it.
"""

from collections.abc import MutableMapping

from . import machine

SPINS = "GOMP_SPINCOUNT"
THREADS = "OMP_NUM_THREADS"
BRIEF, NONE = "1000", "0"  # measured, see docs/performance.md
_CROWDED = 2.0  # others' load for each core, from which on threads do not spin
_OWN_WAITING = (SPINS, "OMP_WAIT_POLICY")  # What is set of these by the user stays.


def set_up(environment: MutableMapping[str, str]) -> None:
    """Set what the user did not: how long threads spin, and where a quota allows fewer cores, how many there are."""
    if not any(name in environment for name in _OWN_WAITING):
        environment[SPINS] = NONE if machine.load() > _CROWDED * machine.num_cores() else BRIEF
    if THREADS not in environment and machine.num_cores() < machine.num_cores(within_quota=False):
        environment[THREADS] = str(machine.num_cores())


def described(environment: MutableMapping[str, str], threads: int) -> str:
    """Say how many threads there are, on how many cores, and how they wait."""
    cores, quota = machine.num_cores(within_quota=False), machine.cpu_quota()
    limit = f", of which a quota leaves {quota:g}" if quota is not None and quota < cores else ""
    waiting = next((f"{name}={environment[name]}" for name in _OWN_WAITING if name in environment), "spinning long")
    return f"{threads} on {cores} cores{limit}; {waiting}"
