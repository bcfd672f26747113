"""`ldm config show STAGE`: the merged settings as a recipe: what was set and where, defaults as comments.

Defaults are comments so that the page is a recipe that says no more than what was said: a stage takes what its `data`
leaves unsaid from the stage before it.
"""

from typing import TYPE_CHECKING, Any

import yaml

from .layers import merged_config
from .text import echo

if TYPE_CHECKING:
    from .options import Given

_COLUMN = 43


def show_config(command: str, given: "Given") -> None:
    """Print a stage's merged settings as YAML that `-c` accepts, with each value's origin in a comment."""
    merged = merged_config(command, given.recipe, given.overrides, given.flags)
    lines = [f"{command}:", *_lines(merged.config.model_dump(mode="json"), merged.origins, "", 1)]
    echo("\n".join(lines))


def _lines(tree: dict[str, Any], origins: Any, prefix: str, depth: int) -> list[str]:
    lines: list[str] = []
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            lines += [f"{'  ' * depth}{name}:", *_lines(value, origins, f"{key}.", depth + 1)]
        else:
            text = f"{name}: {_scalar(value)}"
            indent = "  " * depth
            if key in origins:
                lines.append(f"{indent + text:<{_COLUMN}} # {origins[key]}")
            else:
                lines.append(f"{indent}# {text}")
    return lines


def _scalar(value: Any) -> str:
    """Write one value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9).removesuffix("...\n").strip()
