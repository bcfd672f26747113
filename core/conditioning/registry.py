"""The kinds of conditioning, and how manifests record them."""

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import as_data_error
from .attributes import ATTRIBUTES, rebuilt_attributes
from .class_names import class_flag
from .conditioning import Conditioning, NoConditioning
from .labels import LabelConditioning
from .text import TextConditioning, rebuilt_text

KINDS: dict[str, Callable[[Mapping[str, Any]], Conditioning]] = {
    "none": lambda described: NoConditioning(),
    "labels": lambda described: LabelConditioning(tuple(described["class_names"]), described["has_null"]),
    "text": rebuilt_text,
    ATTRIBUTES: rebuilt_attributes,
}


def rebuilt(described: Mapping[str, Any]) -> Conditioning:
    """Return the conditioning that `Conditioning.describe` described. Raises DataError for a damaged description."""
    with as_data_error("a manifest records a conditioning that this ldm cannot read", "upgrade ldm"):
        return KINDS[described["kind"]](described)


def recorded(conditioning: Conditioning, of_samples: bool = False) -> dict[str, Any]:
    """Return what a manifest records of a conditioning, as `conditioning_of` reads it: of labels their names alone.

    Every folder written before there were other kinds records labels so. of_samples: images with prompts need no more
    of them than the kind and the encoder.
    """
    if isinstance(conditioning, LabelConditioning):
        return {"class_names": list(conditioning.class_names)}
    described = conditioning.describe()
    if of_samples and isinstance(conditioning, TextConditioning):
        described = {name: value for name, value in described.items() if name in ("kind", "encoder")}
    return {"conditioning": described}


def asking(conditioning: Conditioning) -> str:
    """Return the flag that asks for the first condition, with a space behind it; nothing where there are none."""
    if isinstance(conditioning, TextConditioning):
        return f"--prompt {shlex.quote(conditioning.groups().titles[0])} "
    return class_flag(conditioning.class_names)


def conditioning_of(metadata: Mapping[str, Any], dropout: float | None = None) -> Conditioning:
    """Return the conditioning that a manifest records: labels, where it names classes and no other kind.

    dropout: the share of conditions that a training is to drop, where the manifest is that of its data.
    """
    share = metadata.get("label_dropout", 0.0) if dropout is None else dropout
    names = metadata.get("class_names")
    implied = {"kind": "labels", "class_names": names} if names else {"kind": "none"}
    return rebuilt({**metadata.get("conditioning", implied), "has_null": share > 0})
