"""Whether a training has stopped improving: the end that `train.patience` asks for."""

from collections.abc import Iterable, Mapping
from typing import Any

from .evaluator import CONDITIONS, Evaluator

_WATCHED = {"val_loss": False, "val_psnr": True}  # of validations, whether higher is better; a task has one of them


class Patience:
    """Watches the validation loss, of autoencoders the PSNR, or an evaluator's criterion.

    It is in the lines of `metrics.jsonl`, then in those added. images: how many may be trained on without improvement.
    """

    def __init__(self, images: int, evaluator: Evaluator | None, lines: Iterable[Mapping[str, Any]]) -> None:
        self.images, self._conditions = images, None if evaluator is None else evaluator.conditions
        self._watched = _WATCHED if evaluator is None else {evaluator.criterion: evaluator.higher_is_better}
        self.name = ""
        self.best: tuple[float, int] | None = None  # value, and after how many images
        self.last = 0
        for line in lines:
            self.add(line)

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line; one without the number changes nothing. Of equal values the first is best."""
        name = next((name for name in self._watched if isinstance(line.get(name), (int, float))), None)
        if name is None or line.get(CONDITIONS) != self._conditions:
            return
        self.name, self.last = name, line["images"]
        sign = 1 if self._watched[name] else -1
        if self.best is None or sign * line[name] > sign * self.best[0]:
            self.best = line[name], self.last

    @property
    def has_ended(self) -> bool:
        """Whether the last line came so many images after the best one."""
        return self.best is not None and self.last - self.best[1] >= self.images
