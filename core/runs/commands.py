"""The command line that makes a stage's directory where it lies now, wherever it was made. Imports no torch."""

import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from .. import files
from ..errors import DataError, UserError
from .pieces import IDENTITY
from .roles import Role

MANIFEST = "manifest.json"
RECIPE = "config.yaml"
_NO_FLAGS = ("path", "name", "runs_dir")  # of an import, but for its run


def kind_of(path: Path) -> str | None:
    """Return the kind that a stage's directory, complete or not, records; None where it records none."""
    found = (document.get("kind") for document in recorded(path))
    return next((kind for kind in found if isinstance(kind, str)), None)


def recorded(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what a stage's directory records of itself: its manifest, then its identity, as far as they can be read."""
    for name in (MANIFEST, IDENTITY):
        try:
            if (path / name).is_file():
                yield files.read_json(path / name)
        except DataError:
            continue


def command_of(path: Path, role: Role) -> str:
    """Return the command line that makes a directory of a role, or goes on with it, with the settings that it had."""
    words = import_of(path) or ["ldm", *role.command(kind_of(path) or path.name).split()]
    settings = next(filter(Path.is_file, (path / RECIPE, path / MANIFEST)), None)
    if words[:2] != ["ldm", "import"]:
        words += ["-c", str(settings)] if settings is not None else shlex.split(role.given)
        words += ["--label", path.name] if settings == path / MANIFEST and role.chosen else []
    return shlex.join([*words, *placed(path, role)])


def mending(path: Path, role: Role) -> str:
    """Return the remedy for a damaged directory: its own command makes again what differs, and no more."""
    return f"mend it: {command_of(path, role)}"


def is_labelled(path: Path, role: Role) -> bool:
    """Return whether a directory is one of several of its kind in a run, each under a label."""
    return (kind_of(path) or path.parent.name) in role.labelled


def placed(path: Path, role: Role) -> list[str]:
    """Return the flags for the run that a stage's directory lies in."""
    root = path.parent.parent if is_labelled(path, role) else path.parent
    return ["--runs-dir", str(root.parent), "--name", root.resolve().name]


def import_of(path: Path) -> list[str] | None:
    """Return the `ldm import`, but for its run, that wrote the directory; None where no import did.

    Its manifest says so; without one, its recipe.
    """
    try:
        words = shlex.split(str(next(recorded(path), {}).get("command")))
    except ValueError:
        words = []
    if words[:1] != ["ldm"]:
        return imported_as(path)
    own = list(takewhile(lambda word: word not in ("--runs-dir", "--name"), words))
    return own if own[:2] == ["ldm", "import"] else None


def imported_as(path: Path) -> list[str] | None:
    """Return the `ldm import` that a directory's recipe is of, if it is of one."""
    from ..settings.recipe_file import read_settings  # here, since completion in a shell needs no YAML

    try:
        settings = read_settings(path / RECIPE).tree.get("import")
    except UserError:
        return None
    if not isinstance(settings, dict) or not isinstance(settings.get("path"), str):
        return None
    words = ["ldm", "import", settings["path"]]
    given = {name: value for name, value in settings.items() if isinstance(value, str) and name not in _NO_FLAGS}
    return words + [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]
