"""The phases of a training: several trainings with settings of their own, each from the weights of the one before.

A phase is a text like `part=middle data.image_size=128 train.images=50k`. Imports no torch.
"""

import shlex
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from ...settings.recipe_file import leaves
from ...settings.words import did_you_mean, typed

if TYPE_CHECKING:
    from .settings import AutoencoderTraining

_OWN = ("part", "data", "loss", "train")  # what phases may differ in: networks and seed are the same in all
_MOST = 32


P = TypeVar("P", bound="AutoencoderTraining")


def in_phases(config: P) -> list[P]:
    """Return the settings of each phase in order, up to `last_phase`; of a training without phases its own.

    `last_phase` of each is its number, but None of the last of all, which is the stage itself. Each lists the phases up
    to its own, and for each of them all that any of these sets: read again, as a recipe, it means the same. Raises
    ValueError naming a phase that cannot be used.
    """
    if not config.phases:
        return [config]
    if len(config.phases) > _MOST:
        raise ValueError(f"`phases`: {len(config.phases):,} are too many; give at most {_MOST}")
    given = [_read(text) for text in config.phases]
    keys = list(dict.fromkeys(key for phase in given for key in phase))
    merged = [_with(config, phase, text) for phase, text in zip(given, config.phases, strict=True)]
    written = tuple(_written(each, keys) for each in merged)
    ends = [*range(1, len(merged)), config.last_phase if config.last_phase == len(merged) else None]
    return [
        each.model_copy(update={"phases": written[:number], "last_phase": end})
        for number, (each, end) in enumerate(zip(merged, ends, strict=True), 1)
    ][: config.last_phase]


def _read(text: str) -> dict[str, str | None]:
    """Return what a phase sets, by dotted key."""
    try:
        words = [word.partition("=") for word in shlex.split(text)]
    except ValueError as error:
        raise ValueError(f"`phases`: {text!r} has an open quote ({error})") from None
    for key, equals, _ in words:
        if not equals:
            raise ValueError(f"`phases`: {key!r} in {text!r} is not of the form key=value")
        if key.partition(".")[0] not in _OWN:
            raise ValueError(f"`phases`: {key} in {text!r} is the same in all; a phase sets {', '.join(_OWN)}")
    if len({key for key, _, _ in words}) < len(words):
        raise ValueError(f"`phases`: {text!r} sets a key twice")
    return {key: None if value == "null" else value for key, _, value in words}


def _with(config: P, phase: Mapping[str, str | None], text: str) -> P:
    """Return the settings of one phase."""
    tree = config.model_dump(mode="json", exclude={"phases", "last_phase"})
    known = [key for key, value in leaves(tree) if key.partition(".")[0] in _OWN and not isinstance(value, list)]
    for key, value in phase.items():
        if key not in known:
            raise ValueError(f"`phases`: {key} in {text!r} is no setting of a phase{did_you_mean(key, known)}")
        *sections, name = key.split(".")
        reduce(dict.__getitem__, sections, tree)[name] = value
    try:
        return type(config).model_validate(tree)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in detail["loc"])
        raise ValueError(f"`phases`: {text!r}: {key}{': ' if key else ''}{detail['msg']}") from None


def _written(config: Any, keys: Sequence[str]) -> str:
    """Return a phase's text, which sets all these keys."""
    values = dict(leaves(config.model_dump(mode="json")))
    return shlex.join(f"{key}={typed(values[key])}" for key in keys)
