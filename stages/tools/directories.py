"""Directories of `ldm` at a path: of stages, checkpoints, networks and exports, recognised by their files."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import DataError
from ...core.interchange.export_record import RECORD
from ...core.runs import checkpoint
from ...core.runs.claim import settings_of, upgraded
from ...core.runs.commands import command_of, placed, recorded
from ...core.runs.roles import role_of
from ...core.runs.run import IDENTITY, MANIFEST, RECIPE, StageRun, kind_of, open_run
from ...core.runs.states import BEST, folders, mend, training_of
from ...core.runs.weights import CONFIG, WEIGHTS
from ...core.settings.fields import as_formerly, defaults, identity, incidental, places
from ...core.settings.recipe_file import leaves
from ...core.settings.words import typed
from ..table import KINDS, MAKERS, STAGES, TOOLS

CHECKPOINT, NETWORK, EXPORT = "checkpoint", "network", "export"
_ORDER = {kind: place for place, kind in enumerate(KINDS)}
_DEPTH = 4  # from the folder that holds `runs` to runs/NAME/samples/LABEL


@dataclass(frozen=True)
class Piece:
    """A folder that ldm wrote beside a stage's directory, or in one. kind: `checkpoint`, `network` or `export`."""

    path: Path
    kind: str


def find(path: Path) -> list[StageRun | Piece]:
    """List the directories that ldm wrote at a path: itself if it is one, else those below it, producers first.

    Raises DataError where there are none.
    """
    if not path.is_dir():
        raise DataError(f"{path} is a file" if path.exists() else f"{path} does not exist", "give a folder")
    own = recognise(path)
    found = [own] if own else list(_below(path, _DEPTH))
    if not found:
        remedy = "give a run, a stage's folder, a checkpoint, a network, an export, or a folder of any of these"
        raise DataError(f"{path} holds nothing that ldm wrote", remedy)
    return found


def recognise(path: Path) -> StageRun | Piece | None:
    """Return what a folder is, by its files; None if ldm did not write it."""
    if (path / checkpoint.STATE).is_file() or (path.parent.name == checkpoint.FOLDER and path.name.isdecimal()):
        return Piece(path, CHECKPOINT)
    if (path / MANIFEST).is_file() or (path / IDENTITY).is_file():
        kind = _kind(path)
        if kind is None:
            return None
        remedy = mend(path) if training_of(path) else ""
        return StageRun(path, kind, command_line_of(path, kind), (path / MANIFEST).is_file(), mend=remedy)
    if (path / RECORD).is_file():
        return Piece(path, EXPORT)
    if (path / CONFIG).is_file() and ((path / WEIGHTS).is_file() or path.name == "final"):
        return Piece(path, NETWORK)
    return None


def recognise_stage(path: Path) -> StageRun | None:
    """Return the stage's directory that a folder is, if it is one."""
    found = recognise(path)
    return found if isinstance(found, StageRun) else None


def opened(found: StageRun) -> StageRun:
    """Open a stage's directory; DataError, as of `open_run`, with commands that fit where it lies now."""
    return open_run(found.path, role_of(found.kind), found.command, found.mend)


def states(path: Path) -> list[StageRun]:
    """Return the states of a training that its directory holds, each a directory of the same kind."""
    found = (recognise_stage(folder) for folder in folders(path) if (folder / MANIFEST).is_file())
    return [state for state in found if state is not None]


def torn_states(path: Path) -> dict[Path, str]:
    """Return the folders of states in a training's directory that lost their manifest, with the remedy of each."""
    return {folder: mend(folder) for folder in folders(path) if not (folder / MANIFEST).is_file()}


def best(path: Path) -> StageRun | None:
    """Return the best state that a training kept in its directory, a directory of the same kind; None without one."""
    return recognise_stage(path / BEST) if (path / BEST / MANIFEST).is_file() else None


def command_line_of(path: Path, kind: str) -> str:
    """Return the command line that makes a stage's directory where it lies now, wherever it was made."""
    if training := training_of(path):
        return command_line_of(training, kind)
    if kind not in MAKERS or MAKERS[kind].name not in TOOLS:
        return command_of(path, role_of(kind))
    changed = changed_settings(kind, recorded_settings(path)).items()  # A tool reads no recipe.
    return shlex.join(["ldm", kind, *(f"{key}={typed(value)}" for key, value in changed), *placed(path, role_of(kind))])


def recipe_command(found: StageRun) -> str:
    """Return the command line that writes a complete stage's recipe again."""
    command = MAKERS[found.kind].name if found.kind in MAKERS else found.kind
    words = ["ldm", "config", "show", command, "-c", str(found.path / MANIFEST)]
    words += ["--label", found.path.name] if _has_label(command) else []
    words += placed(found.path, role_of(found.kind))
    return f"{shlex.join(words)} > {shlex.quote(str(found.path / RECIPE))}"


def _has_label(command: str) -> bool:
    """Return whether a command's output folder has a name of its own in its run."""
    return command in STAGES and "label" in STAGES[command].settings.model_fields


def recorded_settings(path: Path) -> dict[str, Any]:
    """Return the settings that a manifest records, else the identity; none where neither can be read."""
    return next(filter(None, map(settings_of, recorded(path))), {})


def recorded_inputs(path: Path) -> dict[str, str]:
    """Return the fingerprint of each input that a manifest, else the identity, records."""
    found: dict[str, Any] = next(
        (document["inputs"] for document in recorded(path) if isinstance(document.get("inputs"), dict)), {}
    )
    entries = ((role, entry.get("fingerprint")) for role, entry in found.items() if isinstance(entry, dict))
    return {role: fingerprint for role, fingerprint in entries if isinstance(fingerprint, str)}


def as_recorded_now(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recorded settings of a kind of directory as this version would record them."""
    if kind not in MAKERS:
        return dict(config)
    default = as_formerly(defaults(MAKERS[kind].settings, config))
    return upgraded(config, identity(default), incidental(default))


def identifying(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recorded settings, dotted, that identify a directory of a kind: a place is not one of them."""
    named = places(defaults(MAKERS[kind].settings, config)) if kind in MAKERS else frozenset()
    return {key: value for key, value in leaves(as_recorded_now(kind, config)) if key not in named}


def changed_settings(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recorded settings, dotted, whose values are not the defaults of their stage, or of their family."""
    recorded = leaves(as_recorded_now(kind, config))
    if kind not in MAKERS:
        return dict(recorded)
    settings = MAKERS[kind].settings
    usual = {key: value for each in (defaults(settings, config), settings()) for key, value in leaves(identity(each))}
    return {key: value for key, value in recorded if key not in usual or usual[key] != value}


def _below(path: Path, depth: int) -> Iterator[StageRun | Piece]:
    inside = [entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_dir()]
    for entry in sorted(inside, key=lambda entry: (_ORDER.get(entry.name, len(_ORDER)), entry.name)):
        own = recognise(entry)
        if own:
            yield own
        elif depth > 1 and not entry.is_symlink():
            yield from _below(entry, depth - 1)


def _kind(path: Path) -> str | None:
    """Return its kind by manifest or identity; where both are damaged, by its place in a run."""
    return kind_of(path) or next((name for name in (path.name, path.parent.name) if name in KINDS), None)
