"""Errors in the words of whoever typed the command: key, flag, value, place, and what is allowed."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from re import Match
from typing import Any

from pydantic import ValidationError

from ..core.errors import SETTING, ConfigError, UserError
from ..core.settings.fields import Section
from ..core.settings.words import did_you_mean
from ..stages.table import ALIASES, COMMANDS, STAGES, counterpart
from .keys import Setting, find, sections_of, settings_of
from .recipe import Recipe, read_recipe, stage_layer
from .values import limits, wanted

_MOST_LINES = 20  # each is compared with all that is known
_BEYOND_LIMITS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


def refusal(error: ValidationError, model: type[Section], command: str, origins: Mapping[str, str]) -> ConfigError:
    """Return the ConfigError with one line for each value that cannot be used."""
    details = error.errors(include_url=False)
    lines = list(dict.fromkeys(_line(detail, model, origins) for detail in details[:_MOST_LINES]))
    if len(details) > _MOST_LINES:
        lines.append(f"and {len(details) - _MOST_LINES:,} more")
    remedy = f"ldm {command} --help lists flags and keys"
    if len(lines) == 1:
        return ConfigError(lines[0], remedy)
    return ConfigError(f"{len(lines)} settings cannot be used:\n" + "\n".join(f"  {line}" for line in lines), remedy)


def in_flags(text: str, command: str, section: str | None = None) -> str:
    """Write each setting that core names in a text, `cfg=3`, as it is typed behind a command: `--cfg 3`.

    section: in which the settings were given, where core was asked for a part of the stage's work.
    """

    def typed(match: Match[str]) -> str:
        key, value = match.groups()
        setting = _meant(key, command, section)
        return setting.typed(value) if setting is not None else match[0]

    return SETTING.sub(typed, text)


def with_recipe(text: str, recipe: str | None) -> str:
    """Add the recipe that was given to each stage's command in a text that names none: followed, it is the same run.

    Where it has a section for another command that makes the same, that is named. A preset that the command would be
    given goes where the recipe has its own.
    """
    if recipe is None or " -c " in text:
        return text
    commands = "|".join(map(re.escape, sorted((*STAGES, *ALIASES), key=len, reverse=True)))

    try:
        read = read_recipe(recipe)
    except UserError:  # It may be gone by the end of a long training.
        read = Recipe(Path(recipe), {}, {})

    def added(found: Match[str]) -> str:
        asked, places, preset = found.groups("")
        command = counterpart(asked, read.tree)
        own = stage_layer(read, ALIASES.get(command, command)).get("model")
        kept = "" if command != asked or (isinstance(own, dict) and "preset" in own) else preset
        return f"ldm {command} -c {shlex.quote(recipe)}{places}{kept}"

    places = r"(?: --(?:runs-dir|name) \S+)*"
    return re.sub(rf"\bldm ({commands})(?![\w-])({places})( --preset \S+)?", added, text)


def _meant(key: str, command: str, section: str | None) -> Setting | None:
    """Return the command's setting of that name, in the section or with another, else that of the first other stage."""
    keys = (f"{section}.{key}", key, key.rpartition(".")[2])
    own = [find(COMMANDS[command].settings, name) for name in keys] if command in COMMANDS else []
    return next(filter(None, (*own, *(find(stage.settings, key) for stage in STAGES.values()))), None)


def _line(detail: Any, model: type[Section], origins: Mapping[str, str]) -> str:
    key = ".".join(part for part in detail["loc"] if isinstance(part, str))
    if detail["type"] == "extra_forbidden":
        known = [setting.key for setting in settings_of(model)] + list(sections_of(model))
        return f"{_place(key, origins)}unknown setting {key}{did_you_mean(key, known)}"
    setting = find(model, key)
    if setting is None:
        return _section_line(key, detail, origins)
    flag = f" ({setting.flags[0]})" if setting.flags else ""
    return f"{_place(key, origins)}{key}{flag} is {_seen(detail['input'])}: {_allowed(detail, setting)}"


def _section_line(key: str, detail: Any, origins: Mapping[str, str]) -> str:
    """Return the line for a section that is given as a value, or whose settings do not go together."""
    if detail["type"] != "value_error":
        return f"{_place(key, origins)}{key} is a section; it holds keys, not {_seen(detail['input'])}"
    reason = str(detail["ctx"]["error"])
    return f"{key}: {reason}" if key else reason


def _allowed(detail: Any, setting: Setting) -> str:
    kind = detail["type"]
    if kind == "other_family":
        return str(detail["msg"])
    if kind == "literal_error":
        return f"must be one of {', '.join(setting.choices)}{did_you_mean(str(detail['input']), setting.choices)}"
    if kind == "finite_number":
        return "must be finite"
    if kind in _BEYOND_LIMITS:
        random = "; for one at random: --seed random" if setting.key == "seed" else ""
        return f"must be {' and '.join(limits(setting))}{random}"
    if kind == "string_pattern_mismatch":
        return f"does not fit; {setting.help}"
    if kind == "value_error":
        guess = did_you_mean(str(detail["input"]), setting.names)
        return f"there is none of that name{guess}" if guess else str(detail["ctx"]["error"])
    return f"must be {wanted(setting)}"


def _seen(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return ",".join(map(str, value))
    text = value if isinstance(value, str) and value.strip() else repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _place(key: str, origins: Mapping[str, str]) -> str:
    """Name the recipe's line; a flag or an argument is found by its key alone."""
    origin = origins.get(key)
    return f"{origin}: " if origin and not origin.startswith(("flag ", "argument ")) else ""
