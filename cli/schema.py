"""`ldm config schema`: the JSON schema of recipes, for editors.

An editor's YAML reader makes numbers, booleans and texts of scalars by rules of its own; ours leaves that to the
setting. So wherever `500k`, `no` or `1e-4` is read, the schema takes the text as well as the number or boolean, and
limits hold for what is a number.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import ConfigError
from ..core.settings.fields import Section
from ..core.settings.words import did_you_mean
from ..stages.table import STAGES
from .keys import settings_of
from .recipe import SHARED, WITHOUT
from .values import value_schema

_DRAFT = "http://json-schema.org/draft-07/schema#"  # the one that editors know best


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
    first = {key: next(s.settings for s in STAGES.values() if key in s.settings.model_fields) for key in SHARED}
    shared = {key: _section(model)["properties"][key] for key, model in first.items()}
    sections = {stage: {**_section(STAGES[stage].settings), "description": STAGES[stage].summary} for stage in stages}
    return {
        "$schema": _DRAFT,
        "title": "ldm recipe",
        "description": "Settings of ldm's stages. What stands outside of a stage is shared by all that have it.",
        **_object({**shared, WITHOUT: _left_out(), **sections}),
    }


def _left_out() -> dict[str, Any]:
    names = {"type": "array", "items": {"enum": list(STAGES)}}
    return {"description": "Stages that `make pipelines` leaves out, with what needs them.", **names}


def _section(model: type[Section]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for setting in settings_of(model):
        described = {"description": setting.help, **value_schema(setting)}
        if setting.default is not None and not setting.inherited:
            described["default"] = _plain(setting.default)
        holder = properties
        if setting.section:
            holder = properties.setdefault(setting.section, _object({}))["properties"]
        holder[setting.key.rpartition(".")[2]] = described
    return _object(properties)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a section, which may have nothing under its name."""
    return {"type": ["object", "null"], "additionalProperties": False, "properties": properties}


def _plain(value: Any) -> Any:
    """Return a default as JSON."""
    return value.as_posix() if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
