"""Compare ways of doing the same work by turns, each in a process of its own.

For what a process sets for all of itself, as its allocator: in one process, one variant's setting would be the others'.
"""

import math
import multiprocessing
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from .interleaved import summary, timed

Work = Callable[[], object]
AT_ONCE = 5  # training a DiT-S/2 on a CPU takes three gigabytes


class EndedError(RuntimeError):
    """A process ended before its work was done."""


@dataclass(frozen=True)
class Variant:
    """make: a function of a module, which returns the work when called with these arguments in the other process."""

    make: Callable[..., Work]
    arguments: dict[str, Any] = field(default_factory=dict)


def compare_processes(
    variants: Mapping[str, Variant], rounds: int = 7, warmup: int = 2, baseline: str | None = None
) -> dict[str, Any]:
    """Do what `interleaved.compare` does; only one process works at a time, while the others wait for their turn.

    All of them hold their memory, so that few live at once: of more variants, some after others, each time with the
    baseline. Raises the ImportError of a process that lacks a package, EndedError where one is killed.
    """
    baseline = baseline or next(iter(variants))
    others = [name for name in variants if name != baseline]
    turns = max(math.ceil(len(others) / (AT_ONCE - 1)), 1)
    own: dict[str, list[float]] = {name: [] for name in variants}
    base: dict[str, list[float]] = {name: [] for name in variants}
    for first in range(turns):
        with ExitStack() as stack:
            group = [baseline, *others[first::turns]]
            works = {name: stack.enter_context(_Elsewhere(name, variants[name])) for name in group}
            seconds = timed(works, rounds, warmup)
        for name in group:
            own[name] += seconds[name]
            base[name] += seconds[baseline]
    found = {name: summary(own[name], base[name]) for name in variants}
    return {"baseline": baseline, "rounds": rounds, "variants": found}


class _Elsewhere:
    """A work that is done in a process of its own, when called."""

    def __init__(self, name: str, variant: Variant) -> None:
        self._name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, self._theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(variant, self._theirs), daemon=True)

    def __enter__(self) -> Work:
        self._process.start()
        self._theirs.close()  # Else the end of that process would not be seen.
        self._answer()
        return self

    def __call__(self) -> None:
        with suppress(ConnectionError):  # Its end is reported below.
            self._pipe.send(True)
        self._answer()

    def __exit__(self, *_: object) -> None:
        with suppress(ConnectionError):
            self._pipe.send(False)
        self._process.join()

    def _answer(self) -> None:
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            raise EndedError(f"{self._name!r} ended with exit code {code}; -9: for want of memory") from None
        if isinstance(answer, BaseException):
            raise answer


def _serve(variant: Variant, pipe: Connection) -> None:
    try:
        work = variant.make(**variant.arguments)
    except (ImportError, OSError) as error:
        pipe.send(error)
        return
    pipe.send(None)
    while pipe.recv():
        work()
        pipe.send(None)
