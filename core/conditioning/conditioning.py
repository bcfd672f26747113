"""What images are conditioned on: labels, text, both, or nothing. One interface for all.

A conditioning owns its null, the condition that stands for none in classifier-free guidance. Here data and requests
become conditions; the network decides what they mean to it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..diffusion import conditions
from ..diffusion.conditions import Cond
from ..errors import ConfigError
from .captions import Take

ALL = "all"  # asks for every condition that there is


@dataclass(frozen=True)
class Request:
    """Conditions row by row: on the CPU, titles for grids, and what a manifest records of an image of each.

    notes: what of the request is not as it was asked, in words; the user is to be warned of it.
    """

    cond: Cond
    titles: tuple[str, ...]
    records: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()


class Conditioning(Protocol):
    """The conditions of a data set. Several kinds together are one conditioning with the fields and nulls of each."""

    @property
    def kind(self) -> str:
        """Its name in the table of kinds."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of a condition's tensors."""

    @property
    def stored(self) -> tuple[str, ...]:
        """The fields of latents that `read` takes; of labels none, which every sample has."""

    @property
    def asks(self) -> str:
        """The setting that asks for its conditions."""

    @property
    def has_null(self) -> bool:
        """Whether the model was trained with conditions dropped, so that it knows the null."""

    @property
    def sizes(self) -> dict[str, Any]:
        """The fields that it sets in the config of a network."""

    def null(self, n: int, device: torch.device) -> Cond:
        """Return the fields of n samples without a condition. Raises ConfigError without a null."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of its samples, which a classifier can check; none where it has no labels.

        Where there are classes, the record of each image has its `label`.
        """

    @property
    def row_names(self) -> tuple[str, ...]:
        """What a network has a row of its tables for, in order: classes, or parts of words. The null comes after."""

    def read(self, take: Take, positions: np.ndarray, seed: int) -> Cond:
        """Return the conditions of samples out of their stored fields, but for labels.

        Where a sample has several, seed and positions (B,) of the stream decide which.
        """

    def request(self, asked: Mapping[str, Any]) -> Request:
        """Return what the user asked for, by setting: `{"classes": "cat,dog"}`, `{"prompt": ["a cat"]}`.

        Raises ConfigError for what is unknown, and for a setting that asks for conditions of another kind.
        """

    def recall(self, record: Mapping[str, Any]) -> dict[str, Any]:
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
    stored = ()
    asks = "classes"
    has_null = False
    class_names = ()
    row_names = ()

    @property
    def sizes(self) -> dict[str, int]:
        return {}

    def null(self, n: int, device: torch.device) -> Cond:
        raise no_null()

    def read(self, take: Take, positions: np.ndarray, seed: int) -> Cond:
        return {}

    def request(self, asked: Mapping[str, Any]) -> Request:
        refuse_unknown(asked, (), "nothing: it draws images of any kind")
        return self.groups()

    def recall(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def groups(self) -> Request:
        return Request({}, ("any kind",), ({},))

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind}


def refuse_unknown(asked: Mapping[str, Any], known: Collection[str], what: str) -> None:
    """Raise ConfigError for a setting that asks for conditions of another kind; `all` asks for none in particular.

    known: the settings by which conditions of this kind are asked for. what: a model of this kind is conditioned on.
    """
    for name, value in asked.items():
        for text in [value] if isinstance(value, str) else value:
            if name not in known and text.strip().lower() != ALL:
                instead = f"give {' or '.join(f'`{each}`' for each in known)}, or " if known else ""
                message = f"`{name}={text}`: this model is conditioned on {what}"
                raise ConfigError(message, f"{instead}leave out `{name}`")


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
