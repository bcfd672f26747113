"""Class labels as a condition, with the null class that stands for "no class" in classifier-free guidance.

Labels are int64 (B,), 0 .. num_classes - 1; the null class is `num_classes`, which only this file knows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diffusion.conditions import Cond
from ..errors import DataError
from .captions import Take
from .class_names import parse_classes
from .conditioning import ALL, Request, no_null, refuse_unknown

LABELS = "labels"  # the kind, and the field of a condition


@dataclass(frozen=True)
class LabelConditioning:
    """Class labels. has_null: whether a null class was trained, that is, label dropout was above 0."""

    class_names: tuple[str, ...]
    has_null: bool = True
    kind = LABELS
    fields = (LABELS,)
    stored = ()
    asks = "classes"

    @property
    def num_classes(self) -> int:
        """How many classes there are, without the null class."""
        return len(self.class_names)

    @property
    def row_names(self) -> tuple[str, ...]:
        return self.class_names

    @property
    def sizes(self) -> dict[str, int]:
        return {"num_classes": self.num_classes}

    def check(self, labels: Tensor, source: str) -> Tensor:
        """Return the labels as int64; DataError naming `source` and the first label outside 0 .. num_classes - 1."""
        outside = torch.nonzero((labels < 0) | (labels >= self.num_classes)).flatten()
        if len(outside):
            index = int(outside[0])
            raise DataError(
                f"{source}: label {int(labels[index])} at position {index} is outside 0..{self.num_classes - 1}",
                "correct the label, or train on data that has this class",
            )
        return labels.to(torch.int64)

    def null(self, n: int, device: torch.device) -> Cond:
        """Return the null class n times; ConfigError where none was trained."""
        if not self.has_null:
            raise no_null()
        return {LABELS: torch.full((n,), self.num_classes, device=device)}

    def read(self, take: Take, positions: np.ndarray, seed: int) -> Cond:
        return {}

    def request(self, asked: Mapping[str, Any]) -> Request:
        """Return a row per class that the setting `classes` names. Raises ConfigError with the nearest names."""
        refuse_unknown(asked, ("classes",), "classes")
        return self._rows(parse_classes(asked.get("classes", ALL), self.class_names))

    def recall(self, record: Mapping[str, Any]) -> dict[str, Any]:
        label = record.get("label")
        if label is None:
            return {}
        name = self.class_names[label]
        return {"classes": name if self.class_names.index(name) == label else str(label)}  # Two may share a name.

    def groups(self) -> Request:
        return self._rows(range(self.num_classes))

    def _rows(self, classes: Sequence[int]) -> Request:
        titles = tuple(self.class_names[label] for label in classes)
        records = tuple({"label": label, "class": title} for label, title in zip(classes, titles, strict=True))
        return Request({LABELS: torch.tensor(classes)}, titles, records)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "class_names": list(self.class_names), "has_null": self.has_null}


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Return float32 (B, num_classes), 1 at each label (B,); the null class is the zero vector."""
    return F.one_hot(labels, num_classes + 1)[:, :num_classes].float()


class LabelEmbedding(nn.Module):
    """A vector (B, width) for each label (B,), with a last row for the null class where there is one."""

    class_axes: ClassVar[dict[str, int]] = {"table.weight": 0}

    def __init__(self, num_classes: int, has_null: bool, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_classes + has_null, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, labels: Tensor) -> Tensor:
        return self.table(labels)
