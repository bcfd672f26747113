"""A directory is the interface: what every stage reads and writes, and how it is known to be whole.

A stage's directory holds `identity.json` (settings and inputs) and `config.yaml` (the same settings as a recipe) from
the first moment, and `manifest.json` as the last thing written. The manifest says what the directory is, what made
it, the sha256 of each file the next stage reads, and that of itself; the hash of the table of files is the directory's
fingerprint. Each stage records the fingerprints of its inputs.
"""

import shlex
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from ..errors import DataError
from ..system.machine import num_cores
from .lock import LOCK

SCHEMA = 1
MANIFEST = "manifest.json"
IDENTITY = "identity.json"
RECIPE = "config.yaml"
OWN_DIGEST = "manifest_sha256"


@dataclass(frozen=True)
class Artifact:
    """A finished stage directory, opened for reading."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.manifest["config"])

    @property
    def metadata(self) -> dict[str, Any]:
        return dict(self.manifest["facts"])

    @property
    def fingerprint(self) -> str:
        """The sha256 of the table of output files: equal outputs have equal fingerprints, whenever they were made."""
        return files.sha256_json(self.manifest["files"])

    @property
    def command(self) -> str:
        """The command that made it."""
        return str(self.manifest["command"])

    def verify(self, *names: str) -> None:
        """Compare some output files, or all of them, with the manifest. Raises DataError naming the first that differs.

        Several are read at once: hashing is what takes the time.
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


def open_artifact(path: Path, kind: str, made_by: str) -> Artifact:
    """Open a finished directory of one kind.

    made_by: the command that would make it, named in the remedy. Raises DataError when it is missing, unfinished, of
    another kind or of a schema this version does not know, or its manifest is damaged; `verify` checks its files.
    """
    again = f"make it again: {made_by} --replace"
    if not (path / MANIFEST).is_file() and not (path / IDENTITY).is_file():
        if path.exists() and (path.is_file() or holds_more_than(path, LOCK)):
            raise DataError(f"{path} was made by no stage: it has no {MANIFEST}", f"make one: {made_by}")
        raise DataError(f"{path} does not exist", f"make it: {made_by}")
    if not (path / MANIFEST).is_file():
        recipe = f" -c {shlex.quote(str(path / RECIPE))}" if (path / RECIPE).is_file() else ""
        raise DataError(f"{path} is unfinished: it has no {MANIFEST}", f"finish it: {made_by}{recipe}")
    manifest = files.read_json(path / MANIFEST, again)
    if manifest.get("schema") != SCHEMA:
        raise DataError(
            f"{path / MANIFEST} has schema {manifest.get('schema')!r}; this ldm reads {SCHEMA}", "upgrade ldm"
        )
    if manifest.get("kind") != kind:
        raise DataError(f"{path} holds {manifest.get('kind')!r}, not {kind!r}", f"make one: {made_by}")
    if manifest.pop(OWN_DIGEST, None) != files.sha256_json(manifest):
        raise DataError(f"{path / MANIFEST} is damaged: it differs from its own sha256", again)
    from .schemas import wrong_with  # here, since it takes a tenth of a second that completion in a shell has not

    wrong = wrong_with(manifest, kind)
    if wrong is None and not _is_own_command(manifest["command"]):
        wrong = f"{manifest['command']!r} is no command of ldm"
    if wrong is not None:
        raise DataError(f"{path / MANIFEST} is damaged: {wrong}", again)
    return Artifact(path, manifest)


def _is_own_command(line: str) -> bool:
    """Say whether a command line, which remedies tell people to run, is one of ours and does nothing beside it."""
    try:
        words = shlex.split(line)
    except ValueError:
        return False
    return words[:1] == ["ldm"] and shlex.join(words) == line


def check_producer(artifact: Artifact, role: str, producer: Artifact) -> None:
    """Refuse an artifact whose producer changed since: its recorded input no longer has that fingerprint."""
    recorded = artifact.manifest["inputs"].get(role, {}).get("fingerprint")
    if recorded != producer.fingerprint:
        raise DataError(
            f"{artifact.path} was made with another {role} than {producer.path} holds now",
            f"make it again: {artifact.command} --replace",
        )


def kind_of(path: Path) -> str | None:
    """Return what a stage's directory, whole or not, says that it holds or is to hold; None if it says nothing."""
    for name in (MANIFEST, IDENTITY):
        with suppress(DataError):
            found = files.read_json(path / name, "").get("kind") if (path / name).is_file() else None
            if isinstance(found, str):
                return found
    return None


def holds_more_than(path: Path, *names: str) -> bool:
    """Say whether a folder has other entries than those, and than what an interrupted write left."""
    return any(entry.name not in names and not entry.name.startswith(files.TEMPORARY) for entry in path.iterdir())
