"""What `ldm` wrote at a path: stages' directories, checkpoints and networks, recognised by what they hold."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from ...core import files
from ...core.errors import DataError, UserError
from ...core.interchange.export_record import RECORD
from ...core.pipeline.best import BEST
from ...core.runs.claim import brought_up
from ...core.runs.roles import role_of
from ...core.runs.run import IDENTITY, MANIFEST, RECIPE, StageRun, open_run
from ...core.runs.weights import CONFIG, WEIGHTS
from ...core.settings.fields import Section, defaults, identity, incidental
from ...core.settings.recipe_file import leaves, read_settings
from ...core.training import checkpoint
from ..configs import MADE_BY, OUTPUTS, STAGES
from ..configs.exchange import Import
from ..configs.sweep import Sweep

SWEEP = "sweep"
CHECKPOINT, NETWORK, EXPORT = "checkpoint", "network", "export"
_ORDER = {kind: place for place, kind in enumerate(MADE_BY)}
_LABELLED = (OUTPUTS["sample"], OUTPUTS["eval"])  # kinds of which a run has several, each in a folder of its label
_DEPTH = 4  # from the folder that holds `runs` to runs/NAME/samples/LABEL


@dataclass(frozen=True)
class Directory:
    """A directory of ours. kind: that of its manifest, or `checkpoint`, `network` or `export`."""

    path: Path
    kind: str

    @property
    def is_stage(self) -> bool:
        return self.kind not in (CHECKPOINT, NETWORK, EXPORT)

    @property
    def is_best(self) -> bool:
        """Whether it is the best state of the training whose directory it lies in."""
        return self.path.name == BEST and recognise(self.path.parent) is not None

    @property
    def is_finished(self) -> bool:
        """Whether a stage's manifest, its last file, is there."""
        return (self.path / MANIFEST).is_file()

    def command(self) -> str:
        """Return the command line that makes a stage's directory where it lies now, wherever it was made."""
        if self.is_best:
            return Directory(self.path.parent, self.kind).command()
        words = ["ldm", MADE_BY.get(self.kind, self.kind)]
        recipe = self.path / RECIPE
        imported = import_of(self.path) or imported_as(self.path)
        if imported is not None:
            words = imported
        elif self.kind == SWEEP:  # A tool, which reads no recipe.
            words += _said(self.path, Sweep())
        elif (settings := next(filter(Path.is_file, (recipe, self.path / MANIFEST)), None)) is not None:
            words += ["-c", str(settings)]
            words += ["--label", self.path.name] if words[1] == "sample" and settings != recipe else []
        root = self._root
        if self.kind == SWEEP or _root_in(recipe, words[1]) != root.resolve():
            words += ["--runs-dir", str(root.parent), "--name", root.resolve().name]
        return shlex.join(words)

    @property
    def recipe_command(self) -> str:
        """The command line that writes a finished stage's recipe again."""
        command = MADE_BY.get(self.kind, self.kind)
        words = ["ldm", "config", "show", command, "-c", str(self.path / MANIFEST)]
        words += ["--runs-dir", str(self._root.parent), "--name", self._root.resolve().name]
        words += ["--label", self.path.name] if command == "sample" else []
        return f"{shlex.join(words)} > {shlex.quote(str(self.path / RECIPE))}"

    @property
    def _root(self) -> Path:
        return self.path.parent.parent if self.kind in _LABELLED else self.path.parent

    def open(self) -> StageRun:
        """Open a stage's directory; DataError, as of `open_run`, with commands that fit where it lies now."""
        if not self.is_finished:  # Not every command that goes on reads a recipe.
            raise DataError(f"{self.path} is unfinished: it has no {MANIFEST}", f"finish it: {self.command()}")
        artifact = open_run(self.path, role_of(self.kind), self.command())
        return replace(artifact, command=self.command())


def find(path: Path) -> list[Directory]:
    """List the directories of ours at a path: itself if it is one, else those below it, producers first.

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


def recognise(path: Path) -> Directory | None:
    """Say what a folder is, by its files; None if it is no directory of ours."""
    if (path / checkpoint.STATE).is_file() or (path.parent.name == checkpoint.FOLDER and path.name.isdecimal()):
        return Directory(path, CHECKPOINT)
    if (path / MANIFEST).is_file() or (path / IDENTITY).is_file():
        kind = _kind(path)
        return Directory(path, kind) if kind else None
    if (path / RECORD).is_file():
        return Directory(path, EXPORT)
    if (path / CONFIG).is_file() and ((path / WEIGHTS).is_file() or path.name == "final"):
        return Directory(path, NETWORK)
    return None


def checkpoints(path: Path) -> list[Directory]:
    """List the checkpoints inside a stage's directory, oldest first."""
    return [Directory(found, CHECKPOINT) for found in checkpoint.saved(path)]


def best(path: Path) -> Directory | None:
    """Return the best state that a training kept in its directory, a directory of the same kind; None without one."""
    return Directory(path / BEST, OUTPUTS["train-dit"]) if (path / BEST / MANIFEST).is_file() else None


def import_of(path: Path) -> list[str] | None:
    """Return the `ldm import`, but for its run, that a manifest says wrote the directory; None where no import did."""
    try:
        words = shlex.split(str(files.read_json(path / MANIFEST).get("command")))
    except (DataError, ValueError):
        return None
    own = list(takewhile(lambda word: word not in ("--runs-dir", "--name"), words))
    return own if own[:2] == ["ldm", "import"] else None


def imported_as(path: Path) -> list[str] | None:
    """Return the same as its recipe says it."""
    try:
        return Import.model_validate(read_settings(path / RECIPE).tree.get("import")).words
    except (UserError, ValueError):
        return None


def as_recorded_now(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recorded settings of a kind of directory as this version would record them."""
    if kind not in MADE_BY:
        return dict(config)
    default = defaults(STAGES[MADE_BY[kind]], config)
    return brought_up(config, identity(default), incidental(default))


def _below(path: Path, depth: int) -> Iterator[Directory]:
    inside = [entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_dir()]
    for entry in sorted(inside, key=lambda entry: (_ORDER.get(entry.name, len(_ORDER)), entry.name)):
        own = recognise(entry)
        if own:
            yield own
        elif depth > 1 and not entry.is_symlink():
            yield from _below(entry, depth - 1)


def _kind(path: Path) -> str | None:
    """Return what a manifest or an identity says it is; where both are damaged, what its place in a run says."""
    for name, field in ((MANIFEST, "files"), (IDENTITY, "config")):
        try:
            described = files.read_json(path / name)
        except DataError:
            continue
        if isinstance(described.get("kind"), str) and field in described:
            return str(described["kind"])
    return next((name for name in (path.name, path.parent.name) if name in MADE_BY), None)


def _said(path: Path, default: Section) -> Iterator[str]:
    """Yield `key=value` for the settings of a directory that are not the defaults, as its manifest or identity says."""
    recorded: Any = {}
    for name in (IDENTITY, MANIFEST):
        with suppress(DataError):
            recorded = files.read_json(path / name).get("config", recorded)
    usual = dict(leaves(identity(default)))
    for key, value in leaves(recorded if isinstance(recorded, dict) else {}):
        if key in usual and usual[key] != value:
            text = ",".join(map(str, value)) if isinstance(value, list) else value
            yield f"{key}={'null' if text is None else text}"


def _root_in(recipe: Path, command: str) -> Path | None:
    """Return the run's folder that a stage's recipe names; None where it cannot be read."""
    try:
        settings = read_settings(recipe).tree[command]
        return Path(settings["runs_dir"], settings["name"]).resolve()
    except Exception:  # Whatever the file holds, and wherever its links lead.
        return None
