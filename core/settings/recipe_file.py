"""Settings in a YAML file, read as a tree of texts: what recipes are, and the `config.yaml` of a stage.

YAML does not interpret values: each scalar but null stays the text that was written, so that `1e-4` (a string
to YAML 1.1) and `no` (false to it, even where a name is wanted) mean what the setting makes of them. Tags, anchors and
repeated keys are refused, and so is what is too large or too deep to be settings.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError
from ..files import open_plain

_MAX_BYTES = 256 * 1024
_MAX_DEPTH = 16
_NULLS = {"", "~", "null", "Null", "NULL"}


@dataclass(frozen=True)
class Settings:
    """A tree of texts, and the line of each of its keys, by its path in the tree."""

    tree: dict[str, Any]
    lines: dict[tuple[str, ...], int]


def read_settings(path: Path) -> Settings:
    """Read a file. Raises ConfigError naming file and line when it cannot be read, is too large, or is not YAML."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, not a recipe", "give the YAML file itself")
    try:
        with open_plain(path) as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", "give another file") from None
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path} is {path.stat().st_size:,} bytes large; a recipe has at most {_MAX_BYTES:,}")
    lines: dict[tuple[str, ...], int] = {}
    try:
        node = yaml.compose(data.decode("utf-8-sig"), Loader=_Loader)
        tree = _plain(node, (), lines, path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: byte {error.start}", "save it as UTF-8") from None
    except (yaml.YAMLError, ValueError) as error:  # For "\U00110000" in quotes PyYAML raises ValueError.
        remedy = "correct it; `ldm recipes show mnist` prints a valid recipe"
        raise ConfigError(f"{path} is not YAML: {_problem(error)}", remedy) from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} is a {'list' if isinstance(tree, list) else 'single value'}, not sections of keys")
    return Settings(tree, lines)


class _Loader(yaml.BaseLoader):
    """Composes nodes only; refuses aliases, tags and deep nesting before it follows any."""

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


def _problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {problem}" if mark else problem


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value of a tree that is not a section, with its dotted key."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
