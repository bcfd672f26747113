"""How long a piece of work takes on this machine."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def seconds_of(work: Callable[[], Any], device: torch.device, budget: float) -> float:
    """Return the median seconds of a piece of work, called once before and then for about `budget` seconds."""
    work()
    taken: list[float] = []
    while not taken or sum(taken) < budget:
        _synchronise(device)
        started = time.perf_counter()
        work()
        _synchronise(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
