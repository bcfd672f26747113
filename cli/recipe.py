"""Recipes: YAML files with the settings of every stage of a pipeline.

    name: mnist                 # optional, as are seed, data and machine: shared by every stage that has them
    data: {source: mnist, image_size: 32, flip: no}
    train-dit:                  # one section per command
      train: {lr: 1e-4}

YAML decides nothing about values: each scalar but null stays the text that was written, so that `1e-4` (a string
to YAML 1.1) and `no` (false to it, even where a name is wanted) mean what the setting makes of them. Tags, anchors and
repeated keys are refused.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import ConfigError
from ..stages.configs import STAGES
from .words import did_you_mean

SHARED = ("name", "seed", "data", "machine")
_FOLDER = "recipes"
_SUFFIXES = (".yaml", ".yml")
_MAX_BYTES = 256 * 1024
_MAX_DEPTH = 16
_NULLS = {"", "~", "null", "Null", "NULL"}


@dataclass(frozen=True)
class Recipe:
    """A recipe as read: its file, its tree of texts, and the line of each key, by its path in the file."""

    path: Path
    tree: dict[str, Any]
    lines: dict[tuple[str, ...], int]

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
    try:
        data = path.read_bytes()
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder, not a recipe", "give the YAML file itself") from None
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path} is {len(data):,} bytes large; a recipe has at most {_MAX_BYTES:,}")
    lines: dict[tuple[str, ...], int] = {}
    try:
        node = yaml.compose(data.decode("utf-8-sig"), Loader=_Loader)
        tree = _plain(node, (), lines, path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: byte {error.start}", "save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {_problem(error)}") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} is a {'list' if isinstance(tree, list) else 'single value'}, not sections of keys")
    _check_sections(path, tree, lines)
    return Recipe(path, tree, lines)


def stage_layer(recipe: Recipe, command: str) -> dict[str, Any]:
    """Return a command's settings in a recipe: the shared ones it has, then those of its own section over them."""
    fields = STAGES[command].model_fields
    shared = {key: recipe.tree[key] for key in SHARED if key in recipe.tree and key in fields}
    own = recipe.tree.get(command)
    return merge(shared, own if isinstance(own, dict) else {})


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
    listed = f"recipes by name: {', '.join(known)}" if known else f"no folder {_FOLDER}/ here; give the path of a file"
    raise ConfigError(f"there is no recipe {name}{did_you_mean(path.stem, known)}", listed)


def _check_sections(path: Path, tree: dict[str, Any], lines: dict[tuple[str, ...], int]) -> None:
    known = [*SHARED, *STAGES]
    for key, value in tree.items():
        where = f"{path} line {lines[(key,)]}"
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key}{did_you_mean(key, known)}", f"known: {', '.join(known)}")
        if key not in ("name", "seed") and not isinstance(value, (dict, type(None))):
            raise ConfigError(f"{where}: {key} is a section; it holds keys, not {value!r}")


class _Loader(yaml.BaseLoader):
    """Composes nodes only; refuses what a recipe has no use for before any of it is followed."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(problem="recipes use no anchors or aliases", problem_mark=event.start_mark)
        if getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(problem=f"recipes use no tags ({event.tag})", problem_mark=event.start_mark)
        if self.depth >= _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _plain(node: yaml.Node | None, at: tuple[str, ...], lines: dict[tuple[str, ...], int], path: Path) -> Any:
    """Turn a YAML node into dicts, lists, texts and None, noting the line of each key."""
    if node is None:
        return None
    if isinstance(node, yaml.ScalarNode):
        return None if node.style is None and node.value in _NULLS else node.value
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, at, lines, path) for item in node.value]
    assert isinstance(node, yaml.MappingNode)
    tree: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{path} line {line}: a key must be a single word")
        key = (*at, key_node.value)
        if key_node.value in tree:
            raise ConfigError(f"{path} line {line}: {'.'.join(key)} is given twice, first in line {lines[key]}")
        lines[key] = line
        tree[key_node.value] = _plain(value_node, key, lines, path)
    return tree


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {problem}" if mark else problem
