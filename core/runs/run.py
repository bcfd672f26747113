"""A directory is the interface: one run of one stage, as it is written, read and found.

A stage's directory holds `identity.json` (settings and inputs) and `config.yaml` (the same settings as a recipe) from
the first moment, and `manifest.json` as the last thing written. The manifest says what the directory is, what made
it, the sha256 of each file the next stage reads, and that of itself; the hash of the table of files is the directory's
fingerprint. Each stage records the fingerprints of its inputs.
"""

import json
import shlex
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import files
from ..errors import DataError
from ..system.machine import num_cores
from . import metrics_log
from .lock import LOCK, require_held
from .pieces import IDENTITY, PIECES
from .provenance import provenance
from .roles import Role

SCHEMA = 1
MANIFEST = "manifest.json"
RECIPE = "config.yaml"
OWN_DIGEST = "manifest_sha256"


@dataclass(frozen=True)
class Identity:
    """The identity of a stage's directory: another configuration or input means another directory.

    config: the settings that matter, JSON. inputs: role → {"path": where it was, "fingerprint": what it holds}.
    command: the command line that makes it. recipe: the whole configuration as YAML that `-c` accepts. defaults: what
    settings were, by the same keys, for a directory made before they existed. incidental: settings, dotted, that do
    not matter, though they may have when a directory was made. places: settings, dotted, that are recorded and not
    compared, since what they name is an input.
    """

    kind: str
    command: str
    config: dict[str, Any]
    inputs: dict[str, dict[str, Any]]
    recipe: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    incidental: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()

    def document(self) -> dict[str, Any]:
        inputs = {role: {"fingerprint": entry["fingerprint"]} for role, entry in self.inputs.items()}
        return {"schema": SCHEMA, "kind": self.kind, "config": self.config, "inputs": inputs}


@dataclass(frozen=True)
class StageRun:
    """One run of one stage: its directory, in one of three states.

    open: claimed by its stage, which writes it and ends with `commit`; it has an identity. complete: opened for
    reading, its manifest read and checked (`open_run`). foreign: found at a path, whole or not, its content
    unchecked.

    command: the command line that makes it. complete: whether the manifest, its last file, was there. started: when it
    was claimed, by the monotonic clock.
    """

    path: Path
    kind: str
    command: str
    complete: bool = False
    manifest: Mapping[str, Any] = field(default_factory=dict)
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
        manifest = json.loads(json.dumps(contents))  # As it will be read.
        files.write_json(self.path / MANIFEST, {**manifest, OWN_DIGEST: files.sha256_json(manifest)})
        (self.path / PIECES).unlink(missing_ok=True)
        return replace(self, complete=True, manifest=manifest)


def open_run(path: Path, role: Role, made_by: str) -> StageRun:
    """Open a complete directory of one role.

    made_by: the command line that would make it, named in the remedy. Raises DataError when it is missing, unfinished,
    of another kind or of a schema this version does not know, or its manifest is damaged; `verify` checks its files.
    """
    again = f"make it again: {made_by} --replace"
    if not (path / MANIFEST).is_file() and not (path / IDENTITY).is_file():
        if path.exists() and (path.is_file() or holds_more_than(path, LOCK)):
            raise DataError(f"{path} was not written by ldm: it has no {MANIFEST}", f"make one: {made_by}")
        raise DataError(f"{path} does not exist", f"make it: {made_by}")
    if not (path / MANIFEST).is_file():
        recipe = f" -c {shlex.quote(str(path / RECIPE))}" if (path / RECIPE).is_file() else ""
        raise DataError(f"{path} is unfinished: it has no {MANIFEST}", f"finish it: {made_by}{recipe}")
    manifest = files.read_json(path / MANIFEST, again)
    if manifest.get("schema") != SCHEMA:
        raise DataError(
            f"{path / MANIFEST} has schema {manifest.get('schema')!r}; this ldm reads {SCHEMA}", "upgrade ldm"
        )
    kind = manifest.get("kind")
    if not isinstance(kind, str) or kind not in role.makers:
        expected = " or ".join(repr(each) for each in role.makers)
        raise DataError(f"{path} holds {kind!r}, not {expected}", f"make one: {made_by}")
    if manifest.pop(OWN_DIGEST, None) != files.sha256_json(manifest):
        raise DataError(f"{path / MANIFEST} is damaged: it differs from its own sha256", again)
    from .schemas import wrong_with  # here, since it takes a tenth of a second, too long for completion in a shell

    wrong = wrong_with(manifest, role.form)
    if wrong is None and not _is_own_command(manifest["command"]):
        wrong = f"{manifest['command']!r} is not a command of ldm"
    if wrong is not None:
        raise DataError(f"{path / MANIFEST} is damaged: {wrong}", again)
    return StageRun(path, kind, str(manifest["command"]), complete=True, manifest=manifest)


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
        raise DataError(f"{run.path} was made with another {name} than {producer.path} holds now", run.remedy)


def kind_of(path: Path) -> str | None:
    """Return the kind that a stage's directory, complete or not, records; None where it records none."""
    for name in (MANIFEST, IDENTITY):
        with suppress(DataError):
            found = files.read_json(path / name, "").get("kind") if (path / name).is_file() else None
            if isinstance(found, str):
                return found
    return None


def holds_more_than(path: Path, *names: str) -> bool:
    """Return whether a folder has entries other than those and what an interrupted write left."""
    return any(entry.name not in names and not entry.name.startswith(files.TEMPORARY) for entry in path.iterdir())
