"""`ldm config schema`: the JSON schema of recipes, for editors.

An editor's YAML reader makes numbers, booleans and texts of scalars by rules of its own; ours leaves that to the
setting. So wherever `500k`, `no` or `1e-4` is read, the schema takes the text as well as the number or boolean, and
limits hold for what is a number.
"""

import json
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
import yaml
from pydantic.fields import FieldInfo

from ..core.errors import ConfigError
from ..core.settings.fields import Section
from ..core.settings.words import did_you_mean
from ..stages.table import STAGES
from .keys import Setting, bare, sections_of, settings_of
from .recipe import SHARED

_DRAFT = "http://json-schema.org/draft-07/schema#"  # the one that editors know best
_INTEGER = r"[+-]?[0-9]+(_[0-9]+)*(\.0+)?"
_NUMBER = r"[+-]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][+-]?[0-9][0-9_]*)?"
_COUNT = rf"({_INTEGER}|[0-9][0-9_]*\.?[0-9]*([eE][0-9]{{1,2}})?\s*[kKmMgG]?)"
_YES = r"[yY]([eE][sS])?|[oO][nN]|[tT]([rR][uU][eE])?|1"
_NO = r"[nN][oO]?|[oO][fF][fF]|[fF]([aA][lL][sS][eE])?|0"
_TEXT: dict[str, Any] = {"type": ["string", "number", "boolean"]}
_KINDS: dict[str, dict[str, Any]] = {
    "INTEGER": {"type": ["integer", "string"], "pattern": rf"^\s*{_INTEGER}\s*$"},
    "COUNT": {"type": ["integer", "string"], "pattern": rf"^\s*{_COUNT}\s*$"},
    "NUMBER": {"type": ["number", "string"], "pattern": rf"^\s*{_NUMBER}\s*$"},
    "yes|no": {"type": ["boolean", "string", "integer"], "pattern": f"^({_YES}|{_NO})$", "minimum": 0, "maximum": 1},
    "PATH": _TEXT,
    "TEXT": _TEXT,
}
_LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def show_schema(
    stage: Annotated[
        str | None,
        typer.Argument(
            metavar="STAGE",
            help="Only this stage's section beside the shared ones; all stages' without it.",
            autocompletion=lambda incomplete: [name for name in STAGES if name.startswith(incomplete)],
        ),
    ] = None,
) -> None:
    """Print the schema."""
    if stage is not None and stage not in STAGES:
        raise ConfigError(f"no stage {stage}{did_you_mean(stage, STAGES)}", f"name one of {', '.join(STAGES)}")
    typer.echo(json.dumps(recipe_schema([stage] if stage else list(STAGES)), indent=2, ensure_ascii=False))


def recipe_schema(stages: list[str]) -> dict[str, Any]:
    """Return the schema of recipes with sections for these stages: what is refused by it, is refused by `-c`."""
    shared = {}
    for key in SHARED:
        model = next(stage.settings for stage in STAGES.values() if key in stage.settings.model_fields)
        section = sections_of(model).get(key)
        shared[key] = _section(section) if section else _section(model)["properties"][key]
    sections = {stage: {**_section(STAGES[stage].settings), "description": STAGES[stage].summary} for stage in stages}
    return {
        "$schema": _DRAFT,
        "title": "ldm recipe",
        "description": "Settings of ldm's stages. What stands outside of a stage is shared by all that have it.",
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {**shared, **sections},
    }


def _section(model: type[Section], inherited: bool = False) -> dict[str, Any]:
    sections = sections_of(model)
    properties = {setting.key: _setting(setting, inherited) for setting in settings_of(model) if not setting.section}
    for name, section in sections.items():
        extra = model.model_fields[name].json_schema_extra
        properties[name] = _section(section, isinstance(extra, dict) and bool(extra.get("inherited")))
    return {"type": ["object", "null"], "additionalProperties": False, "properties": properties}


def _setting(setting: Setting, inherited: bool = False) -> dict[str, Any]:
    """Return the schema of one setting's value."""
    schema = _values(setting)
    if type(None) in get_args(setting.field.annotation):
        schema |= {"enum": [*schema["enum"], None]} if setting.choices else {"type": [*schema["type"], "null"]}
    described = {"description": setting.help, **schema}
    return described if setting.default is None or inherited else {**described, "default": _plain(setting.default)}


def _values(setting: Setting) -> dict[str, Any]:
    if setting.choices:
        return {"enum": list(dict.fromkeys(value for c in setting.choices for value in (c, yaml.safe_load(c))))}
    if setting.is_list:
        return _list(setting)
    return _limited(_KINDS[setting.kind], setting.field)


def _list(setting: Setting) -> dict[str, Any]:
    """Return the schema of a list, which may also be written as one text: `1,2,4`."""
    first, *_ = members = get_args(bare(setting.field.annotation))
    kind = "INTEGER" if bare(first) is int else "NUMBER"
    item, pattern = _KINDS[kind], _INTEGER if kind == "INTEGER" else _NUMBER
    ends = {} if Ellipsis in members else {"minItems": len(members), "maxItems": len(members)}
    more = rf"(\s*,\s*{pattern})" + ("*" if Ellipsis in members else f"{{{len(members) - 1}}}")
    single = [item["type"][0]] if Ellipsis in members else []
    text = rf"^\s*\[?\s*{pattern}{more}\s*\]?\s*$"
    return {"type": ["array", "string", *single], "items": item, **ends, "pattern": text}


def _limited(schema: dict[str, Any], field: FieldInfo) -> dict[str, Any]:
    """Add the limits that a setting was declared with; a pattern leaves only texts."""
    limited = dict(schema)
    for mark in field.metadata:
        for name, keyword in _LIMITS.items():
            if getattr(mark, name, None) is not None:
                limited[keyword] = getattr(mark, name)
        if getattr(mark, "pattern", None) is not None:
            limited = {"type": ["string"], "pattern": mark.pattern}
    return limited


def _plain(value: Any) -> Any:
    """Return a default as JSON."""
    return value.as_posix() if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
