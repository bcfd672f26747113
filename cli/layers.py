"""Defaults, then the recipe, then `key=value` overrides, then flags: merged into one validated configuration.

Values stay the texts that were typed until pydantic reads them, once, after the merge.
"""

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..core.errors import ConfigError
from ..core.settings.fields import Section
from ..core.settings.recipe_file import leaves
from ..core.settings.words import did_you_mean
from ..stages.table import COMMANDS
from .keys import Setting, find, sections_of, settings_of
from .recipe import merge, passed_over, read_recipe, stage_layer
from .refusals import refusal

RANDOM = "random"


@dataclass(frozen=True)
class Merged:
    """A validated configuration and, by dotted key, where each value that was given came from.

    chosen_seed: that of `seed=random`. passed_over: see `recipe.passed_over`.
    """

    config: Section
    origins: Mapping[str, str]
    chosen_seed: int | None = None
    passed_over: str | None = None


def merged_config(
    command: str,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, str | bool | list[str]] | None = None,
) -> Merged:
    """Merge a command's layers and validate the result.

    recipe: name or path. overrides: `section.key=value`. flags: values by dotted key. Raises ConfigError naming every
    value that cannot be used, its flag, where it was given and what is allowed.
    """
    model = COMMANDS[command].settings
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    other: str | None = None
    if recipe is not None:
        read = read_recipe(recipe)
        other = passed_over(read, command)
        values = _without_empty_sections(stage_layer(read, command), model)
        origins.update({key: read.where(command, key) for key, _ in leaves(values)})
    given, places = given_layer(command, overrides, flags or {})
    values, origins = merge(values, given), {**origins, **places}
    chosen = seed_chosen(values)
    return Merged(validated(values, command, origins), origins, chosen, other)


def given_layer(
    command: str, overrides: Sequence[str], flags: Mapping[str, str | bool | list[str]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what was typed as a tree of texts, and by dotted key as what it was typed.

    Raises ConfigError for a key that is unknown.
    """
    model = COMMANDS[command].settings
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for text in overrides:
        setting, value = parse_override(text, model, command)
        values = merge(values, _tree(setting.key, value))
        origins[setting.key] = f"argument {setting.key}={value}"
    for key, chosen in flags.items():
        flagged = find(model, key)
        assert flagged is not None
        values = merge(values, _tree(key, chosen))
        typed = flagged.typed("no" if chosen is False else None)
        origins[key] = f"argument {typed}" if flagged.argument else f"flag {typed}"
    return values, origins


def validated(values: dict[str, Any], command: str, origins: Mapping[str, str]) -> Section:
    """Return a command's settings from texts. Raises ConfigError as `merged_config` does."""
    model = COMMANDS[command].settings
    try:
        return model.model_validate(_split_lists(values, model))
    except ValidationError as error:
        raise refusal(error, model, command, origins) from None


def seed_chosen(values: dict[str, Any]) -> int | None:
    """Put a number in the place of `seed: random`, and return it. Raises ConfigError for several processes."""
    if str(values.get("seed")).strip().lower() != RANDOM:
        return None
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("`seed=random`: each process would choose another", "give a number")
    chosen = secrets.randbelow(2**31)
    values["seed"] = str(chosen)
    return chosen


def parse_override(text: str, model: type[Section], command: str) -> tuple[Setting, str | None]:
    """Read `section.key=value`; the value `null` is None. Raises ConfigError with the nearest known key."""
    key, equals, value = text.partition("=")
    known = [setting.key for setting in settings_of(model)]
    remedy = f"ldm {command} --help lists flags and keys"
    if not equals:
        flagged = [flag for setting in settings_of(model) for flag in setting.flags if flag.lstrip("-") == text]
        if not flagged and "data.source" in known and Path(text).exists():
            flagged = [f"--data {text}"]
        hint = f"; did you mean {flagged[0]}?" if flagged else ""
        raise ConfigError(f"argument {text!r} is not of the form section.key=value{hint}", remedy)
    setting = find(model, key)
    if setting is None:
        section = sections_of(model).get(key)
        if section is not None:
            some = ", ".join(f"{key}.{name}" for name in list(section.model_fields)[:3])
            raise ConfigError(f"{key} is a section, not a setting: {text}", f"set one of its keys: {some}, …")
        raise ConfigError(f"unknown setting {key}{did_you_mean(key, known)}", remedy)
    return setting, None if value == "null" else value


def _tree(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _without_empty_sections(tree: dict[str, Any], model: type[Section]) -> dict[str, Any]:
    """Leave out sections with nothing under their name, which YAML reads as null."""
    sections = sections_of(model)
    return {name: value for name, value in tree.items() if not (name in sections and value is None)}


def _split_lists(tree: dict[str, Any], model: type[Section]) -> dict[str, Any]:
    """Read `1,2,4` and `[1, 2, 4]` as lists where a setting is a list."""
    for key, value in leaves(tree):
        setting = find(model, key)
        if setting is not None and setting.is_list and isinstance(value, str):
            items = value.strip().removeprefix("[").removesuffix("]")
            tree = merge(tree, _tree(key, [item.strip() for item in items.split(",")]))
    return tree
