"""How a stage claims a directory: for one configuration and its inputs, to start it or to continue it."""

import dataclasses
import json
import shutil
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .. import files
from ..errors import ConfigError, DataError
from ..settings.recipe_file import leaves
from .lock import LOCK
from .pieces import BOUND
from .roles import role_of
from .run import IDENTITY, MANIFEST, RECIPE, Identity, StageRun, holds_more_than, kind_of, open_run


def claim(path: Path, identity: Identity, replace: bool = False) -> StageRun:
    """Make sure that an occupied directory belongs to this very configuration and these inputs.

    A new directory gets its `identity.json`. An existing one of the same identity is returned to
    continue. One of another configuration or other inputs is discarded with `replace`, or if no work was done in it,
    otherwise refused with what differs (ConfigError, exit 2). What another kind of stage made is refused in any case.
    `replace` also discards a finished one that is damaged, and writes the recipe again. Where the identity of a
    finished one is missing or damaged, its manifest gives it.
    """
    wanted = json.loads(json.dumps(identity.document()))
    differences = partial(_differences, wanted=wanted, places=identity.places)
    recorded = _recorded(path, identity)
    if (found := kind_of(path)) not in (None, identity.kind):
        raise ConfigError(f"{path} holds {found!r}, not {identity.kind!r}: it is not replaced", "give another name")
    if recorded is not None or (path / IDENTITY).exists():
        differing = differences(recorded or _read_identity(path, identity, replace))
        if differing and not replace and holds_more_than(path, LOCK, IDENTITY, RECIPE):
            raise ConfigError(
                f"{path} was made with other settings or inputs: {'; '.join(differing)}",
                "give the same settings, another `name`, or `replace` to start over",
            )
        if differing or (replace and _is_damaged(path, identity)):
            _clear(path)
    elif holds_more_than(path, LOCK):
        raise ConfigError(f"{path} holds files that no stage wrote", "move them or give another `name`")
    files.remove_temporaries(path)
    if not (path / IDENTITY).exists() or (recorded and differences(_read_identity(path, identity, True))):
        files.write_json(path / IDENTITY, {**wanted, BOUND: True})
    if replace or not (path / MANIFEST).exists():
        files.write_bytes(path / RECIPE, identity.recipe.encode())
    return StageRun(path, identity.kind, identity.command, (path / MANIFEST).is_file(), identity=identity)


def upgraded(
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
            merged[name] = upgraded(value, inner if isinstance(inner, Mapping) else {}, below)
    return merged


def _recorded(path: Path, identity: Identity) -> dict[str, Any] | None:
    """Return the identity that a finished directory's manifest records; None where the manifest is not valid."""
    try:
        found = open_run(path, role_of(identity.kind), identity.command)
    except DataError:
        return None
    config = upgraded(found.config, identity.defaults, identity.incidental)
    return dataclasses.replace(identity, kind=found.kind, config=config, inputs=found.inputs).document()


def _read_identity(path: Path, identity: Identity, replace: bool) -> dict[str, Any]:
    try:
        found = files.read_json(path / IDENTITY, "start over with `replace`")
        found.pop(BOUND, None)
        known = found.get("config")
        if isinstance(known, dict):
            found["config"] = upgraded(known, identity.defaults, identity.incidental)
        return found
    except DataError:
        if replace:
            return {}
        raise


def _is_damaged(path: Path, identity: Identity) -> bool:
    """Whether a complete directory differs from what its manifest records."""
    if not (path / MANIFEST).exists():
        return False
    try:
        open_run(path, role_of(identity.kind), identity.command).verify()
    except DataError:
        return True
    return False


def _clear(path: Path) -> None:
    """Discard what a stage's directory holds: the manifest first, the identity last, so that it can be repeated."""
    (path / MANIFEST).unlink(missing_ok=True)
    for entry in path.iterdir():
        if entry.name in (LOCK, IDENTITY):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    (path / IDENTITY).unlink(missing_ok=True)


def _differences(previous: Mapping[str, Any], wanted: Mapping[str, Any], places: Collection[str]) -> list[str]:
    """List `setting: was → is` for every setting that differs, and the inputs that hold something else.

    places: settings that may differ.
    """
    before, after = dict(leaves(previous)), dict(leaves(wanted))
    return [
        f"{key.split('.')[1]}: other contents"
        if key.startswith("inputs.")
        else f"{key.removeprefix('config.')}: {before.get(key)!r} → {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key.removeprefix("config.") not in places
    ]
