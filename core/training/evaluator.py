"""What is measured of the EMA during training, such as the FID of its samples, and which state was the best so far.

An evaluation is a line of `metrics.jsonl` that holds its conditions. It does not change the training: its draws
have their own seeds. One that a stop interrupts is recorded in the checkpoint, and made when training resumes there.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from ..runs.metrics_log import CONDITIONS

__all__ = ["CONDITIONS", "Best", "Evaluator"]


class Evaluator(Protocol):
    """Evaluates the EMA, every so many images and at the end of the training.

    conditions: JSON, what the numbers depend on; only numbers of equal conditions are compared. criterion: the number
    by which the best state is chosen. higher_is_better: of that number.
    """

    every: int
    conditions: dict[str, Any]
    criterion: str
    higher_is_better: bool

    def evaluate(self, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Return what to record, JSON; None once `should_stop` returns True, which all processes call equally often.

        The networks hold the EMA, in eval mode. Only the main process's numbers count; the others' may be empty.
        """

    def save_best(self, images_seen: int, numbers: Mapping[str, Any]) -> None:
        """Save the EMA as the best state so far. All processes call this together; the main one writes."""

    def has_best(self) -> bool:
        """Return whether a best state that was saved is still there."""


class Best:
    """The best value of an evaluator's criterion so far: in the lines of `metrics.jsonl`, then in those added."""

    def __init__(self, evaluator: Evaluator, lines: Iterable[Mapping[str, Any]]) -> None:
        self._evaluator = evaluator
        self.value: float | None = None
        if evaluator.has_best():
            for line in lines:
                self.improves(line)

    def improves(self, line: Mapping[str, Any]) -> bool:
        """Add a line; return whether it is an evaluation better than all before. Of equal ones the first is best."""
        value = line.get(self._evaluator.criterion)
        if not isinstance(value, (int, float)) or line.get(CONDITIONS) != self._evaluator.conditions:
            return False
        sign = 1 if self._evaluator.higher_is_better else -1
        if self.value is not None and sign * value <= sign * self.value:
            return False
        self.value = value
        return True
