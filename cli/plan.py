"""`ldm plan`: for each stage of a recipe, a file that changes only when the stage's settings do.

Make compares times of files. A recipe is one file for all stages; these are one for each, rewritten only where the
settings that make a run this run differ, so that a changed recipe reruns what it touches and nothing else.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.files import write_json
from ..core.settings.fields import Run, identity
from ..stages.table import STAGES
from . import examples
from .layers import merged_config
from .plain import PlainCommand, plain_command
from .printable import echo

FOLDER = ".plan"


def write_plan(recipe: str | None, name: str | None = None, runs_dir: str | None = None) -> list[Path]:
    """Write RUNS_DIR/NAME/.plan/STAGE.json for every stage; return the files whose content changed.

    name, runs_dir: as the flags of the same name; None leaves them to the recipe. Every stage is validated before
    anything is written. Raises ConfigError.
    """
    flags = {key: value for key, value in (("name", name), ("runs_dir", runs_dir)) if value is not None}
    configs = {command: merged_config(command, recipe, (), flags).config for command in STAGES}
    changed = []
    for command, config in configs.items():
        assert isinstance(config, Run), "every stage works in a run"
        path = config.root / FOLDER / f"{command}.json"
        content = {"command": command, "settings": identity(config)}
        if not _holds(path, content):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, content)
            changed.append(path)
    return changed


def plan_command() -> PlainCommand:
    """Build the command."""
    return plain_command("plan", _plan, examples.MENUS["plan"])


def _plan(
    recipe: Annotated[str | None, typer.Option("--config", "-c", metavar="RECIPE", help="The recipe.")] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="TEXT", help="The run; else the recipe's.")] = None,
    runs_dir: Annotated[str | None, typer.Option("--runs-dir", metavar="PATH", help="Folder of the runs.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not list the files that changed.")] = False,
) -> None:
    changed = write_plan(recipe, name, runs_dir)
    if not quiet:
        for path in changed:
            echo(f"plan: {path} changed")


def _holds(path: Path, content: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(path.read_bytes()) == content)
    except (FileNotFoundError, ValueError):
        return False
