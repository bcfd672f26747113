"""A directory is the interface: one run of one stage, as it is written, read and found.

A stage's directory holds `identity.json` (settings and inputs) and `config.yaml` (the same settings as a recipe) from
the first moment, and `manifest.json` as the last thing written. The manifest says what the directory is, what made
it, the sha256 of each file the next stage reads, and that of itself; the hash of the table of files is the directory's
fingerprint. Each stage records the fingerprints of its inputs.
"""

import shlex
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import files
from ..errors import DataError
from ..system.machine import num_cores
from . import metrics_log
from .commands import MANIFEST, RECIPE, kind_of
from .lock import LOCK, owner, require_held
from .pieces import IDENTITY, PIECES, PLACES
from .provenance import provenance
from .roles import Role
from .states import drawable

__all__ = ["IDENTITY", "MANIFEST", "RECIPE", "Identity", "StageRun", "check_producer", "kind_of", "open_run"]

SCHEMA = 1
OWN_DIGEST = "manifest_sha256"


@dataclass(frozen=True)
class Identity:
    """The identity of a stage's directory: another configuration or input means another directory.

    config: the settings that matter, JSON. inputs: role → {"path": where it was, "fingerprint": what it holds}.
    command: the command line that makes it. recipe: the whole configuration as YAML that `-c` accepts. defaults: what
    settings were, by the same keys, for a directory made before they existed. incidental: settings, dotted, that do
    not matter, though they may have when a directory was made. places: settings, dotted, that are recorded apart and
    not compared, since what they name is an input. elsewhere: the setting that chooses another directory, in words.
    how_to_go_on: see `Stage.how_to_go_on`.
    """

    kind: str
    command: str
    config: dict[str, Any]
    inputs: dict[str, dict[str, Any]]
    recipe: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    incidental: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()
    elsewhere: str = "another `name`"
    how_to_go_on: Callable[[Mapping[str, Any], str], str | None] = lambda recorded, elsewhere: None

    def document(self) -> dict[str, Any]:
        """Return it as `identity.json` has it."""
        inputs = {role: {"fingerprint": entry["fingerprint"]} for role, entry in self.inputs.items()}
        config, named = set_apart(self.config, self.places)
        return {"schema": SCHEMA, "kind": self.kind, "config": config, "inputs": inputs, PLACES: named}


def set_apart(
    settings: Mapping[str, Any], names: Collection[str], section: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return settings without those of some dotted names, and these alone. section: that they are in, with a dot."""
    kept: dict[str, Any] = {}
    apart: dict[str, Any] = {}
    for name, value in settings.items():
        if section + name in names:
            apart[name] = value
        elif isinstance(value, Mapping):
            kept[name], inner = set_apart(value, names, f"{section}{name}.")
            apart |= {name: inner} if inner else {}
        else:
            kept[name] = value
    return kept, apart


@dataclass(frozen=True)
class StageRun:
    """One run of one stage: its directory, in one of three states.

    open: claimed by its stage, which writes it and ends with `commit`; it has an identity. complete: opened for
    reading, its manifest read and checked (`open_run`). foreign: found at a path, whole or not, its content
    unchecked.

    command: the command line that makes it where it lies. complete: whether the manifest, its last file, was there.
    mend: what to do where it is damaged, if not to run that command. started: when it was claimed, by the monotonic
    clock.
    """

    path: Path
    kind: str
    command: str
    complete: bool = False
    manifest: Mapping[str, Any] = field(default_factory=dict)
    mend: str = ""
    identity: Identity | None = field(default=None, compare=False)
    started: float = field(default_factory=time.monotonic, compare=False)

    @property
    def state(self) -> str:
        """Its state: complete, unfinished or missing."""
        started = self.complete or (self.path / IDENTITY).is_file() or (self.path / MANIFEST).is_file()
        return "complete" if self.complete else "unfinished" if started else "missing"

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.manifest.get("config", {}))

    @property
    def metadata(self) -> dict[str, Any]:
        return dict(self.manifest.get("facts", {}))

    @property
    def fingerprint(self) -> str:
        """The sha256 of the table of output files: equal outputs have equal fingerprints, whenever they were made."""
        return files.sha256_json(self.manifest["files"])

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """Its inputs by role: the path of each, and its fingerprint."""
        return dict(self.manifest.get("inputs", {}))

    @property
    def provenance(self) -> dict[str, Any]:
        """Its provenance: command line, versions, machine, time."""
        return dict(self.manifest.get("provenance", {}))

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`, of a stage that trains."""
        return metrics_log.read(self.path / metrics_log.METRICS)

    def curve(self, name: str) -> list[tuple[float, float]]:
        """Return (images seen, value) of a number of `metrics.jsonl`."""
        return [(line["images"], line[name]) for line in self.lines if isinstance(line.get(name), (int, float))]

    def verify(self, *names: str) -> None:
        """Compare some output files, or all of them, with the manifest. Raises DataError naming the first that differs.

        Several are read at once, since hashing takes most of the time.
        """
        chosen = names or tuple(self.manifest["files"])
        self.verify_sizes(*chosen)
        with ThreadPoolExecutor(num_cores()) as pool:
            paths = [self.path / name for name in chosen]
            for name, path, found in zip(chosen, paths, pool.map(files.sha256_file, paths), strict=True):
                if found != self.manifest["files"][name]["sha256"]:
                    raise self._damaged(path)

    def file(self, name: str) -> Path:
        """Return the path of an output file for reading it. Raises DataError unless it is the one in the manifest."""
        if name not in self.manifest["files"]:
            raise DataError(f"{self.path / name} is not one of the files of {self.path / MANIFEST}", self.remedy)
        self.verify(name)
        return self.path / name

    def has(self, name: str) -> bool:
        """Return whether an output file of that name is in the manifest."""
        return name in self.manifest.get("files", {})

    def verify_sizes(self, *names: str) -> None:
        """Compare only the sizes of some output files, or of all of them. Raises DataError naming the file."""
        for name in names or self.manifest["files"]:
            path = self.path / name
            if not path.is_file():
                raise DataError(f"{path} is missing", self.remedy)
            if path.stat().st_size != self.manifest["files"][name]["bytes"]:
                raise self._damaged(path)

    def _damaged(self, path: Path) -> DataError:
        return DataError(f"{path} is damaged: its sha256 differs from {self.path / MANIFEST}", self.remedy)

    @property
    def remedy(self) -> str:
        """What mends a damaged directory: its own command makes again what differs from the manifest, and no more."""
        return self.mend or f"mend it: {self.command}"

    @property
    def anew(self) -> str:
        """What to do with a whole directory that no longer fits its inputs."""
        return f"make it again: {self.command} --replace"

    def commit(
        self,
        outputs: list[str],
        metadata: dict[str, Any],
        hashes: Mapping[str, str] | None = None,
        images_per_second: float | None = None,
    ) -> "StageRun":
        """Write the manifest, last of all files. outputs: names, relative to the directory, that later stages read.

        hashes: sha256 of outputs that the caller has computed already. images_per_second: speed of a stage that goes
        through its images once.
        """
        identity = self.identity
        assert identity is not None, "only a stage that claimed its directory commits it"
        require_held(self.path)
        table = {}
        for name in sorted(outputs):
            path = self.path / name
            known = (hashes or {}).get(name)
            table[name] = {"bytes": path.stat().st_size, "sha256": known or files.sha256_file(path)}
        contents = {
            "schema": SCHEMA,
            "kind": identity.kind,
            "command": identity.command,
            "config": identity.config,
            "inputs": identity.inputs,
            "files": table,
            "facts": metadata,
            "provenance": {
                **provenance(),
                "seconds": round(time.monotonic() - self.started, 1),
                "images_per_second": None if images_per_second is None else round(images_per_second, 2),
            },
        }
        manifest = files.as_read(contents)
        files.write_json(self.path / MANIFEST, files.sealed(manifest, OWN_DIGEST))
        (self.path / PIECES).unlink(missing_ok=True)
        return replace(self, complete=True, manifest=manifest)


def open_run(path: Path, role: Role, made_by: str, mend: str = "") -> StageRun:
    """Open a complete directory of one role.

    made_by: the command line that makes it where it lies, named in the remedy. mend: see `StageRun`. Raises DataError
    when it is missing, unfinished, of another kind, or its manifest is damaged or at odds with the files that it
    lists, and NewerFormat for a schema this version does not know; `verify` checks the other files.
    """
    run = StageRun(path, "", made_by, complete=True, mend=mend)
    if not (path / MANIFEST).is_file() and not (path / IDENTITY).is_file():
        if path.exists() and (path.is_file() or holds_more_than(path, LOCK)):
            raise DataError(f"{path} was not written by ldm: it has no {MANIFEST}", f"make one: {made_by}")
        raise DataError(f"{path} does not exist", f"make it: {made_by}")
    if not (path / MANIFEST).is_file():
        seen = [line["images"] for line in metrics_log.read(path / metrics_log.METRICS)[-1:]]
        far = f", after {seen[0]:,} images" if seen else ""
        states = [f"`checkpoint={name}`" for name in drawable(path) if role.draws]
        if states:
            far += f", and can be drawn from as it is now with {' or '.join(states)}"
        writer = owner(path)
        remedy = f"wait for {writer}, which writes it" if writer else f"finish it: {made_by}"
        raise DataError(f"{path} is unfinished{far}: it has no {MANIFEST}", remedy)
    manifest = files.read_sealed(path / MANIFEST, OWN_DIGEST, SCHEMA, run.remedy, always=True)
    kind = manifest.get("kind")
    if not isinstance(kind, str) or kind not in role.makers:
        expected = " or ".join(repr(each) for each in role.makers)
        raise DataError(f"{path} holds {kind!r}, not {expected}", f"make one: {made_by}")
    from .metadata_checks import (
        at_odds,  # here, since pydantic takes a tenth of a second, too long for completion in a shell
    )
    from .schemas import wrong_with

    wrong = wrong_with(manifest, role.form)
    if wrong is None and not _is_own_command(manifest["command"]):
        wrong = f"{manifest['command']!r} is not a command of ldm"
    run = replace(run, kind=kind, manifest=manifest)
    wrong = wrong or at_odds(run, role.form)
    if wrong is not None:
        raise DataError(f"{path / MANIFEST} is damaged: {wrong}", run.remedy)
    return run


def _is_own_command(line: str) -> bool:
    """Return whether a command line, which remedies ask users to run, is one ldm command and nothing else."""
    try:
        words = shlex.split(line)
    except ValueError:
        return False
    return words[:1] == ["ldm"] and shlex.join(words) == line


def check_producer(run: StageRun, name: str, producer: StageRun) -> None:
    """Refuse a run whose producer changed since: the input of that name no longer has the recorded fingerprint."""
    if run.inputs.get(name, {}).get("fingerprint") != producer.fingerprint:
        raise DataError(f"{run.path} was made with another {name} than {producer.path} holds now", run.anew)


def holds_more_than(path: Path, *names: str) -> bool:
    """Return whether a folder has entries other than those and what an interrupted write left."""
    return any(entry.name not in names and not entry.name.startswith(files.TEMPORARY) for entry in path.iterdir())
