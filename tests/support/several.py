"""Several real processes on this machine that find one another as torchrun's do, for the tests of parallel work."""

import faulthandler
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable

import matplotlib.figure  # noqa: F401 - loaded here once, not in every process that draws a curve

import ldm.core.training.sharding  # noqa: F401 - likewise
from ldm.core.errors import OtherProcessFailed, UserError


def run_together(size: int, work: Callable[[int], None], patience: float = 90) -> list[int]:
    """Let `size` processes do `work(rank)`, forked so that torch need not load again. Returns their exit codes."""
    context = multiprocessing.get_context("fork")
    surroundings = environment(size)
    processes = [
        context.Process(target=_be_one, args=(rank, surroundings, work, patience), daemon=True) for rank in range(size)
    ]
    for process in processes:
        process.start()
    end = time.monotonic() + patience
    for process in processes:
        process.join(max(end - time.monotonic(), 0))
    hanging = [process for process in processes if process.is_alive()]
    for process in hanging:
        process.kill()
        process.join()
    assert not hanging, f"{len(hanging)} of {size} processes hang"
    return [process.exitcode if process.exitcode is not None else -1 for process in processes]


def environment(size: int) -> dict[str, str]:
    """Return the variables that torchrun would set, but for the ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}


def ranked(surroundings: dict[str, str], rank: int) -> dict[str, str]:
    """Return the variables of one process."""
    return {**surroundings, "RANK": str(rank), "LOCAL_RANK": str(rank)}


def _be_one(rank: int, surroundings: dict[str, str], work: Callable[[int], None], patience: float) -> None:
    faulthandler.dump_traceback_later(0.9 * patience, file=2)  # where it hangs, should it be killed for that
    os.environ.update(ranked(surroundings, rank))
    try:
        work(rank)
    except UserError as error:
        reported = "reported" if getattr(error, "reported", False) else "silent"
        print(f"process {rank}: {reported}: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except OtherProcessFailed as ending:
        sys.exit(ending.exit_code)
