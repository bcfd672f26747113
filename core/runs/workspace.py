"""A stage's directory while it is written: claimed for one configuration and its inputs, finished by its manifest."""

import json
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import files
from ..errors import ConfigError, DataError
from ..settings.recipe_file import leaves
from .artifacts import IDENTITY, MANIFEST, OWN_DIGEST, RECIPE, SCHEMA, Artifact, holds_more_than, kind_of, open_artifact
from .lock import LOCK
from .provenance import provenance


@dataclass(frozen=True)
class Identity:
    """What a stage's directory is made of: another configuration or input means another directory.

    config: the settings that matter, JSON. inputs: role → {"path": where it was, "fingerprint": what it holds}.
    command: the command line that makes it. recipe: the whole configuration as YAML that `-c` accepts. defaults: what
    settings were, by the same keys, for a directory made before they existed. incidental: settings, dotted, that do
    not matter, though they may have when a directory was made.
    """

    kind: str
    command: str
    config: dict[str, Any]
    inputs: dict[str, dict[str, Any]]
    recipe: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    incidental: frozenset[str] = frozenset()

    def document(self) -> dict[str, Any]:
        inputs = {role: {"fingerprint": entry["fingerprint"]} for role, entry in self.inputs.items()}
        return {"schema": SCHEMA, "kind": self.kind, "config": self.config, "inputs": inputs}


@dataclass(frozen=True)
class Workspace:
    """The directory a stage is writing: locked, its identity inside, without a manifest until `commit`.

    complete: whether the same command already finished here. begun: when it was claimed, by the monotonic clock.
    """

    path: Path
    identity: Identity
    complete: bool = False
    begun: float = field(default_factory=time.monotonic, compare=False)

    def commit(
        self,
        outputs: list[str],
        metadata: dict[str, Any],
        hashes: Mapping[str, str] | None = None,
        images_per_second: float | None = None,
    ) -> Artifact:
        """Write the manifest, last of all files. outputs: names, relative to the directory, that later stages read.

        hashes: the sha256 of those outputs that need not be read for it, known to who wrote them. images_per_second: of
        the work itself, where that goes through images once.
        """
        table = {}
        for name in sorted(outputs):
            path = self.path / name
            known = (hashes or {}).get(name)
            table[name] = {"bytes": path.stat().st_size, "sha256": known or files.sha256_file(path)}
        contents = {
            "schema": SCHEMA,
            "kind": self.identity.kind,
            "command": self.identity.command,
            "config": self.identity.config,
            "inputs": self.identity.inputs,
            "files": table,
            "facts": metadata,
            "provenance": {
                **provenance(),
                "seconds": round(time.monotonic() - self.begun, 1),
                "images_per_second": None if images_per_second is None else round(images_per_second, 2),
            },
        }
        manifest = json.loads(json.dumps(contents))  # As it will be read.
        files.write_json(self.path / MANIFEST, {**manifest, OWN_DIGEST: files.sha256_json(manifest)})
        return Artifact(self.path, manifest)


def claim(path: Path, identity: Identity, replace: bool = False) -> Workspace:
    """Make sure that an occupied directory belongs to this very configuration and these inputs.

    A new directory gets its `identity.json`. An existing one of the same identity is handed back as it is, to go on
    from. One of another configuration or other inputs is discarded with `replace`, or if no work was done in it yet,
    otherwise refused with what differs (ConfigError, exit 2). What another kind of stage made is refused in any case.
    `replace` also discards a finished one that is damaged, and writes the recipe again. Where the identity of a
    finished one is missing or damaged, its manifest says it.
    """
    wanted = json.loads(json.dumps(identity.document()))
    recorded = _recorded(path, identity)
    if (found := kind_of(path)) not in (None, identity.kind):
        raise ConfigError(f"{path} holds {found!r}, not {identity.kind!r}: it is not replaced", "give another name")
    if recorded is not None or (path / IDENTITY).exists():
        differing = _differences(recorded or _read_identity(path, identity, replace), wanted)
        if differing and not replace and holds_more_than(path, LOCK, IDENTITY, RECIPE):
            raise ConfigError(
                f"{path} was made with other settings or inputs: {'; '.join(differing)}",
                "give the same settings, another --name, or --replace to start afresh",
            )
        if differing or (replace and _is_damaged(path, identity)):
            _clear(path)
    elif holds_more_than(path, LOCK):
        raise ConfigError(f"{path} holds files that no stage wrote", "move them or give another --name")
    files.remove_temporaries(path)
    if not (path / IDENTITY).exists() or (recorded and _differences(_read_identity(path, identity, True), wanted)):
        files.write_json(path / IDENTITY, wanted)
    if replace or not (path / MANIFEST).exists():
        files.write_bytes(path / RECIPE, identity.recipe.encode())
    return Workspace(path, identity, complete=(path / MANIFEST).is_file())


def brought_up(
    config: Mapping[str, Any], defaults: Mapping[str, Any], incidental: Collection[str] = ()
) -> dict[str, Any]:
    """Return a recorded configuration as it would be recorded now.

    The settings that it lacks, section by section, are as `defaults` has them; those that do not matter are left out.
    """
    kept = {name: value for name, value in config.items() if name not in incidental}
    merged = {**defaults, **kept}
    for name, value in kept.items():
        if isinstance(value, Mapping):
            below = [key.removeprefix(f"{name}.") for key in incidental if key.startswith(f"{name}.")]
            inner = defaults.get(name)
            merged[name] = brought_up(value, inner if isinstance(inner, Mapping) else {}, below)
    return merged


def _recorded(path: Path, identity: Identity) -> dict[str, Any] | None:
    """Return what a finished directory's manifest says that it is made of; None where it cannot be relied on."""
    try:
        artifact = open_artifact(path, identity.kind, identity.command)
    except DataError:
        return None
    inputs = {role: {"fingerprint": entry["fingerprint"]} for role, entry in artifact.manifest["inputs"].items()}
    config = brought_up(artifact.config, identity.defaults, identity.incidental)
    return {"schema": SCHEMA, "kind": artifact.kind, "config": config, "inputs": inputs}


def _read_identity(path: Path, identity: Identity, replace: bool) -> dict[str, Any]:
    try:
        found = files.read_json(path / IDENTITY, "start afresh with --replace")
        known = found.get("config")
        if isinstance(known, dict):
            found["config"] = brought_up(known, identity.defaults, identity.incidental)
        return found
    except DataError:
        if replace:
            return {}
        raise


def _is_damaged(path: Path, identity: Identity) -> bool:
    """Whether a finished directory is no longer what its manifest says."""
    if not (path / MANIFEST).exists():
        return False
    try:
        open_artifact(path, identity.kind, identity.command).verify()
    except DataError:
        return True
    return False


def _clear(path: Path) -> None:
    """Discard what a stage's directory holds: the manifest first, the identity last, so that it can be interrupted."""
    (path / MANIFEST).unlink(missing_ok=True)
    for entry in path.iterdir():
        if entry.name in (LOCK, IDENTITY):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    (path / IDENTITY).unlink(missing_ok=True)


def _differences(previous: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """List `setting: was → is` for every setting that differs, and the inputs that hold something else."""
    before, after = dict(leaves(previous)), dict(leaves(wanted))
    return [
        f"{key.split('.')[1]}: other contents"
        if key.startswith("inputs.")
        else f"{key.removeprefix('config.')}: {before.get(key)!r} → {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
