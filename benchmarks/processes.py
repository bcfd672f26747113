"""Compare ways of doing the same work by turns, each in a process of its own.

For what a process sets for all of itself, as its allocator: in one process, one variant's setting would be the others'.
"""

import multiprocessing
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from .interleaved import compare

Work = Callable[[], object]


@dataclass(frozen=True)
class Variant:
    """make: a function of a module, which returns the work when called with these arguments in the other process."""

    make: Callable[..., Work]
    arguments: dict[str, Any] = field(default_factory=dict)


def compare_processes(
    variants: Mapping[str, Variant], rounds: int = 7, warmup: int = 2, baseline: str | None = None
) -> dict[str, Any]:
    """Do what `interleaved.compare` does; only one process works at a time, while the others wait for their turn.

    Raises the ImportError of a process that lacks a package.
    """
    with ExitStack() as stack:
        works = {name: stack.enter_context(_Elsewhere(variant)) for name, variant in variants.items()}
        return compare(works, rounds, warmup, baseline)


class _Elsewhere:
    """A work that is done in a process of its own, when called."""

    def __init__(self, variant: Variant) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(variant, other), daemon=True)

    def __enter__(self) -> Work:
        self._process.start()
        self._answer()
        return self

    def __call__(self) -> None:
        self._pipe.send(True)
        self._answer()

    def __exit__(self, *_: object) -> None:
        self._pipe.send(False)
        self._process.join()

    def _answer(self) -> None:
        answer = self._pipe.recv()
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
