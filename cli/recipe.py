"""Recipes: YAML files with the settings of every stage of a pipeline.

    name: mnist                 # optional, as are seed, data and machine: shared by every stage that has them
    data: {source: mnist, image_size: 32, flip: no}
    train-dit:                  # one section per command
      train: {lr: 1e-4}
    without: [train-classifier] # stages that `make pipelines` leaves out, with what needs them

Values stay the texts that were written; see `core.settings.recipe_file`. The `manifest.json` of a finished stage is a
recipe, too: of the settings that the stage was made with.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from ..core.files import read_json
from ..core.runs.claim import upgraded
from ..core.runs.commands import command_of
from ..core.runs.roles import role_of
from ..core.runs.run import MANIFEST, open_run
from ..core.settings.fields import as_formerly, defaults, identity, incidental
from ..core.settings.recipe_file import read_settings
from ..core.settings.words import did_you_mean
from ..stages.table import MAKERS, STAGES, counterpart

SHARED = ("name", "seed", "data", "machine")
WITHOUT = "without"  # stages that `make pipelines` leaves out
_FOLDER = "recipes"
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Recipe:
    """A recipe as read: its file, its tree of texts, and the line of each key, by its path in the file."""

    path: Path
    tree: dict[str, Any]
    lines: dict[tuple[str, ...], int]

    @property
    def without(self) -> tuple[str, ...]:
        """The stages that a pipeline of it leaves out."""
        return tuple(self.tree.get(WITHOUT) or ())

    def where(self, command: str, key: str) -> str:
        """Say where a stage's setting was given: file and line."""
        parts = tuple(key.split("."))
        line = self.lines.get((command, *parts)) or self.lines.get(parts)
        return f"{self.path} line {line}" if line else str(self.path)


def read_recipe(name: str) -> Recipe:
    """Read the recipe of that path, or of that name in the folder `recipes`.

    Raises ConfigError naming file and line when it is missing, too large, not YAML, not a recipe, or uses keys that
    no stage has.
    """
    path = find_recipe(name)
    if path.name == MANIFEST:
        return Recipe(path, _settings_of_manifest(path), {})
    read = read_settings(path)
    _check_sections(path, read.tree, read.lines)
    return Recipe(path, read.tree, read.lines)


def stage_layer(recipe: Recipe, command: str) -> dict[str, Any]:
    """Return a command's settings in a recipe: the shared ones it has, then those of its own section over them."""
    fields = STAGES[command].settings.model_fields
    shared = {key: recipe.tree[key] for key in SHARED if key in recipe.tree and key in fields}
    own = recipe.tree.get(command)
    return merge(shared, own if isinstance(own, dict) else {})


def passed_over(recipe: Recipe, command: str) -> str | None:
    """Return the command that makes the same, and that a recipe has a section for, where it has none for this one."""
    other = counterpart(command, recipe.tree) if command in STAGES else command
    return None if other == command else other


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge two trees; where both have a key, sections are merged and anything else is taken from `over`."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def recipe_folders() -> list[Path]:
    """Return where recipes are looked for by name: here, then in the checkout."""
    return [Path(_FOLDER), Path(__file__).resolve().parents[1] / _FOLDER]


def recipe_names() -> list[str]:
    """List the names of the recipes at hand."""
    return sorted({path.stem for folder in recipe_folders() for s in _SUFFIXES for path in folder.glob(f"*{s}")})


def find_recipe(name: str) -> Path:
    """Return the file of a recipe given by path or name. Raises ConfigError with the nearest known name."""
    path = Path(name)
    if path.is_file():
        return path
    if path.name == name and not path.suffix:
        for folder in recipe_folders():
            for suffix in _SUFFIXES:
                if (candidate := folder / f"{name}{suffix}").is_file():
                    return candidate
    if path.exists():
        return path
    known = recipe_names()
    listed = (
        f"name one of {', '.join(known)}, or give the path of a file"
        if known
        else f"no folder {_FOLDER}/ here; give the path of a file"
    )
    raise ConfigError(f"there is no recipe {name}{did_you_mean(path.stem, known)}", listed)


def _settings_of_manifest(path: Path) -> dict[str, Any]:
    """Return the settings in a stage's manifest under its command; those that it does not know are as by default.

    Raises ConfigError for what no command with settings made, and DataError for a manifest that is damaged.
    """
    kind = read_json(path).get("kind")
    made = MAKERS.get(kind) if isinstance(kind, str) else None
    command = made.name if made is not None else ""
    if made is None or command not in STAGES:
        raise ConfigError(f"{path} is not the manifest of a stage", "give a recipe")
    artifact = open_run(path.parent, role_of(str(kind)), command_of(path.parent, role_of(str(kind))))
    maker = shlex.split(artifact.manifest["command"])[1]
    if maker != command:
        raise ConfigError(f"{path} was made by ldm {maker}, with no settings of ldm {command}", "give a recipe")
    default = as_formerly(defaults(STAGES[command].settings, artifact.config))
    return {command: upgraded(artifact.config, identity(default), incidental(default))}


def _check_sections(path: Path, tree: dict[str, Any], lines: dict[tuple[str, ...], int]) -> None:
    known = [*SHARED, WITHOUT, *STAGES]
    for key, value in tree.items():
        where = f"{path} line {lines[(key,)]}"
        if key not in known:
            raise ConfigError(
                f"{where}: unknown key {key}{did_you_mean(key, known)}", f"take one of {', '.join(known)}"
            )
        if key == WITHOUT:
            for name in value if isinstance(value, list) else [str(value)]:
                if name not in STAGES or not isinstance(value, list):
                    remedy = f"write a list of some of {', '.join(STAGES)}"
                    raise ConfigError(f"{where}: {WITHOUT} holds {name!r}, which is not a stage", remedy)
        elif key not in ("name", "seed") and not isinstance(value, (dict, type(None))):
            raise ConfigError(f"{where}: {key} is a section; it holds keys, not {value!r}")
