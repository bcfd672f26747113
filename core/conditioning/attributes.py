"""Several labels of an image at once, and numbers, as one condition: `labels.csv`.

Each label and each number is a scalar of its own, which networks embed by itself: a label is 1 where the image has it
and 0 where not, a number its place between the least and the greatest of training, 0 to 1. The null of all is -1.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..diffusion.conditions import Cond
from ..errors import ConfigError
from .captions import Take
from .class_names import parse_classes
from .conditioning import ALL, Request, no_null, refuse_unknown

ATTRIBUTES = "attributes"  # the kind
STORED = "attributes.npy"  # the field of shards: labels, 0 or 1, and numbers as they were given, float32
_BEYOND = 0.5  # how far outside of training's range, of its width, a number may be asked for


@dataclass(frozen=True)
class Number:
    """A number of images: its name, and its least, greatest and mean value in training."""

    name: str
    low: float
    high: float
    mean: float


@dataclass(frozen=True)
class AttributeConditioning:
    """Labels, of which an image may have several or none, and numbers."""

    labels: tuple[str, ...]
    numbers: tuple[Number, ...] = ()
    has_null: bool = True
    kind = ATTRIBUTES
    stored = (STORED,)
    asks = "classes"
    class_names = ()
    row_names = ()

    @property
    def fields(self) -> tuple[str, ...]:
        # By the names, so that a network that starts from another one takes over what it knows of the same labels.
        names = (*(f"label {name}" for name in self.labels), *(f"number {each.name}" for each in self.numbers))
        return tuple(f"attribute_{hashlib.sha256(name.encode()).hexdigest()[:8]}" for name in names)

    @property
    def sizes(self) -> dict[str, Any]:
        return {"scalars": self.fields}

    def null(self, n: int, device: torch.device) -> Cond:
        """Return -1 for each label and number; ConfigError where no null was trained."""
        if not self.has_null:
            raise no_null()
        return {name: torch.full((n,), -1.0, device=device) for name in self.fields}

    def read(self, take: Take, positions: np.ndarray, seed: int) -> Cond:
        return self._cond(torch.from_numpy(np.stack(take(STORED)).astype(np.float32)))

    def request(self, asked: Mapping[str, Any]) -> Request:
        """Return an image of all labels that `classes` names, and of the numbers in `values`; `;` parts several images.

        `all` are the images of `groups`. A number that is not given is the mean of training. Raises ConfigError for a
        label or number that is unknown, and for a number far outside of training's range.
        """
        refuse_unknown(asked, ("classes", "values"), "labels and numbers of labels.csv")
        text, values = str(asked.get("classes", ALL)), self._values(asked.get("values", ()))
        if text.strip().lower() == ALL:
            return self.groups() if not values else self._images([()], [values])
        chosen = [self._named(part) for part in text.split(";")]
        return self._images(chosen, [values] * len(chosen))

    def recall(self, record: Mapping[str, Any]) -> dict[str, Any]:
        if "labels" not in record:
            return {}
        values = [f"{name}={value!r}" for name, value in record.get("values", {}).items()]
        return {"classes": ",".join(record["labels"]) or "none", **({"values": values} if values else {})}

    def groups(self) -> Request:
        """Return each label alone; without labels the least, the mean and the greatest of the first number."""
        if self.labels:
            return self._images([(label,) for label in self.labels], [{}] * len(self.labels))
        first = self.numbers[0]
        return self._images([()] * 3, [{first.name: value} for value in (first.low, first.mean, first.high)])

    def describe(self) -> dict[str, Any]:
        numbers = [vars(number) for number in self.numbers]
        return {"kind": self.kind, "labels": list(self.labels), "numbers": numbers, "has_null": self.has_null}

    def _cond(self, values: Tensor) -> Cond:
        """Return the scalars of labels and numbers as they are stored, (B, K + M)."""
        scaled = values.clone()
        for place, number in enumerate(self.numbers, len(self.labels)):
            scaled[:, place] = (values[:, place] - number.low) / (number.high - number.low)
        return dict(zip(self.fields, scaled.unbind(1), strict=True))

    def _images(self, chosen: Sequence[Sequence[str]], values: Sequence[Mapping[str, float]]) -> Request:
        rows, titles, records = [], [], []
        for labels, given in zip(chosen, values, strict=True):
            numbers = {number.name: given.get(number.name, number.mean) for number in self.numbers}
            rows.append([*(float(label in labels) for label in self.labels), *numbers.values()])
            shown = given if labels or given else {}
            titles.append(", ".join([*labels, *(f"{name} {value:g}" for name, value in shown.items())]) or "no label")
            records.append({"labels": list(labels), **({"values": numbers} if numbers else {})})
        return Request(self._cond(torch.tensor(rows, dtype=torch.float32)), tuple(titles), tuple(records))

    def _named(self, text: str) -> tuple[str, ...]:
        """Return the labels that a text names, in their order; `none` names none."""
        if text.strip().lower() == "none" and text not in self.labels:
            return ()
        if not self.labels:
            raise ConfigError(f"`classes={text}`: this model has numbers alone", "give `values`, as in values=age=30")
        return tuple(self.labels[place] for place in sorted(parse_classes(text, self.labels)))

    def _values(self, given: Sequence[str]) -> dict[str, float]:
        known = {number.name: number for number in self.numbers}
        values: dict[str, float] = {}
        for text in [given] if isinstance(given, str) else given:
            name, _, written = text.partition("=")
            if name.strip() not in known:
                message = f"`values={text}`: this model has no number {name.strip()!r}"
                raise ConfigError(message, f"it has {', '.join(known) or 'none'}; write NAME=NUMBER")
            number = known[name.strip()]
            try:
                value = float(written)
            except ValueError:
                raise ConfigError(f"`values={text}`: {written!r} is not a number", f"write {name}=NUMBER") from None
            margin = _BEYOND * (number.high - number.low)
            if not number.low - margin <= value <= number.high + margin:
                message = f"`values={text}` is far outside of training, where {name} was {number.low:g} to"
                raise ConfigError(f"{message} {number.high:g}", "give a number of that range")
            values[number.name] = value
        return values


def rebuilt_attributes(described: Mapping[str, Any]) -> AttributeConditioning:
    """Return the conditioning that `describe` described."""
    numbers = tuple(Number(**each) for each in described["numbers"])
    return AttributeConditioning(tuple(described["labels"]), numbers, described["has_null"])
