"""What is measured of the EMA while it trains, and which of its states was the best so far.

A measurement is a line of `metrics.jsonl` with its conditions in it. It changes nothing of the training: an evaluator
draws by seeds of its own. One that a stop cuts short is noted in the checkpoint, and made when training goes on from
there.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from .record import CONDITIONS

__all__ = ["CONDITIONS", "Best", "Evaluator"]


class Evaluator(Protocol):
    """Measures what the EMA does, every so many images and at the end of the training.

    conditions: JSON, on what the numbers depend: only those of equal conditions are compared. criterion: the number by
    which the best state is chosen. larger: whether more of it is better.
    """

    every: int
    conditions: dict[str, Any]
    criterion: str
    larger: bool

    def measure(self, stopping: Callable[[], bool]) -> dict[str, Any] | None:
        """Return what to record, JSON, or None as soon as `stopping` says so, which all processes ask equally often.

        The averages are in the network's place, which is in evaluation mode. What others than the first process return
        only matters for being None or not.
        """

    def keep(self, images_seen: int, numbers: Mapping[str, Any]) -> None:
        """Keep the averages as the best state so far. All processes are asked to at once; the first one writes."""

    def keeps_one(self) -> bool:
        """Say whether a state kept earlier is still there."""


class Best:
    """The best value of an evaluator's criterion so far: of the lines of a record, then of those it is shown."""

    def __init__(self, evaluator: Evaluator, lines: Iterable[Mapping[str, Any]]) -> None:
        self._gauge = evaluator
        self.value: float | None = None
        if evaluator.keeps_one():
            for line in lines:
                self.improves(line)

    def improves(self, line: Mapping[str, Any]) -> bool:
        """Take in a line; say whether it is a measurement better than all before. Of equals the first is the best."""
        value = line.get(self._gauge.criterion)
        if not isinstance(value, (int, float)) or line.get(CONDITIONS) != self._gauge.conditions:
            return False
        sign = 1 if self._gauge.larger else -1
        if self.value is not None and sign * value <= sign * self.value:
            return False
        self.value = value
        return True
