"""What images are conditioned on: labels, text, both, or nothing. One interface for all.

A conditioning owns its null, the condition that stands for none in classifier-free guidance. Here data and requests
become conditions; the network decides what they mean to it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..diffusion import conditions
from ..diffusion.conditions import Cond
from ..errors import ConfigError

ALL = "all"  # asks for every condition that there is


@dataclass(frozen=True)
class Request:
    """Conditions row by row: on the CPU, titles for grids, and what a manifest records of an image of each."""

    cond: Cond
    titles: tuple[str, ...]
    records: tuple[dict[str, Any], ...]


class Conditioning(Protocol):
    """The conditions of a data set. Several kinds together are one conditioning with the fields and nulls of each."""

    @property
    def kind(self) -> str:
        """Its name in the table of kinds."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of a condition's tensors."""

    @property
    def has_null(self) -> bool:
        """Whether the model was trained with conditions dropped, so that it knows the null."""

    @property
    def sizes(self) -> dict[str, int]:
        """The fields that it sets in the config of a network."""

    def null(self, n: int, device: torch.device) -> Cond:
        """Return the fields of n samples without a condition. Raises ConfigError without a null."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of its samples, which a classifier can check; none where it has no labels.

        Where there are classes, the record of each image has its `label`.
        """

    def request(self, asked: Mapping[str, str]) -> Request:
        """Return what the user asked for, by setting: `{"classes": "cat,dog"}`.

        Raises ConfigError for what is unknown, and for a setting that asks for conditions of another kind.
        """

    def recall(self, record: Mapping[str, Any]) -> dict[str, str]:
        """Return what asks, by setting, for the condition that a manifest records; nothing for an empty record."""

    def groups(self) -> Request:
        """Return the conditions of which previews and evaluations draw equally many images, in order."""

    def describe(self) -> dict[str, Any]:
        """Return JSON from which the registry rebuilds it."""


@dataclass(frozen=True)
class NoConditioning:
    """Images without labels or captions."""

    kind = "none"
    fields = ()
    has_null = False
    class_names = ()

    @property
    def sizes(self) -> dict[str, int]:
        return {}

    def null(self, n: int, device: torch.device) -> Cond:
        raise no_null()

    def request(self, asked: Mapping[str, str]) -> Request:
        refuse_unknown(asked, (), "nothing: it draws images of any kind")
        return self.groups()

    def recall(self, record: Mapping[str, Any]) -> dict[str, str]:
        return {}

    def groups(self) -> Request:
        return Request({}, ("any kind",), ({},))

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind}


def refuse_unknown(asked: Mapping[str, str], known: Collection[str], what: str) -> None:
    """Raise ConfigError for a setting that asks for conditions of another kind; `all` asks for none in particular.

    known: the settings by which conditions of this kind are asked for. what: a model of this kind is conditioned on.
    """
    for name, text in asked.items():
        if name not in known and text.strip().lower() != ALL:
            raise ConfigError(f"`{name}={text}`: this model is conditioned on {what}", f"leave out `{name}`")


def no_null() -> ConfigError:
    """Return the error for guidance of a model without a null."""
    return ConfigError(
        "this model was trained with label dropout 0 and has no null class to guide away from",
        "use `cfg=1`, or train with `label_dropout=0.1`",
    )


def unconditional(conditioning: Conditioning, cond: Cond) -> Cond:
    """Return the condition with the null in place of the conditioning's fields.

    Others stay: scalars and images that the network takes besides.
    """
    if not conditioning.fields:
        raise no_null()
    first = cond[conditioning.fields[0]]
    return {**cond, **conditioning.null(len(first), first.device)}


def drop(conditioning: Conditioning, cond: Cond, uniforms: Tensor, p: float) -> Cond:
    """Replace conditions by the null where a sample's own draw, uniforms (B,) in [0, 1), is below p.

    One draw serves all fields of a sample. Ho & Salimans 2022, "Classifier-free diffusion guidance": p is the
    probability of unconditional training.
    """
    if p == 0 or not conditioning.fields:
        return cond
    return conditions.where(uniforms < p, unconditional(conditioning, cond), cond)
