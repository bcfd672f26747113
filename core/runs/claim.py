"""How a stage claims a directory: for one configuration and its inputs, to start it, to continue it or to mend it."""

import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .. import files
from ..errors import ConfigError, DataError, NewerFormat
from ..settings.fields import ENDING
from ..settings.recipe_file import leaves
from .lock import LOCK
from .pieces import BEFORE, BOUND, CHECKPOINTS, PIECES, PLACES, Pieces, owner_of, sha256_of
from .roles import role_of
from .run import (
    IDENTITY,
    MANIFEST,
    RECIPE,
    SCHEMA,
    Identity,
    StageRun,
    holds_more_than,
    kind_of,
    open_run,
    set_apart,
)


def claim(
    path: Path, identity: Identity, replace: bool = False, warn: Callable[[str], None] = lambda _: None
) -> StageRun:
    """Make sure that an occupied directory belongs to this very configuration and these inputs.

    A new directory gets its `identity.json`. An existing one of the same identity is returned to continue, as is a
    finished one that is damaged: it loses its manifest, so that its stage makes again what differs from it, from what
    is whole. warn: is called with what is damaged. One of another configuration or other inputs is discarded with
    `replace`, or if no work was done in it, otherwise refused with what differs (ConfigError, exit 2). What another
    kind of stage made is refused in any case, as is what a newer version finished (NewerFormat). `replace` also writes
    the recipe again, and an identity that can no longer be read.
    """
    wanted = files.as_read(identity.document())
    finished, damage = _finished(path, identity)
    if (found := kind_of(path)) not in (None, identity.kind):
        raise ConfigError(f"{path} holds {found!r}, not {identity.kind!r}: it is not replaced", "give another `name`")
    if finished is not None or (path / IDENTITY).exists():
        known = _of_manifest(finished) if finished is not None else _read_identity(path, lenient=replace)
        differing = _differences(known, wanted, identity) if known is not None else []
        if known is not None and not replace and differing and _is_shorter(known, wanted, identity):
            _go_on(path, known, wanted, identity)
            finished, damage, differing = None, None, []
        if differing and not replace and holds_more_than(path, LOCK, IDENTITY, RECIPE):
            others = ", ".join(filter(None, ("give the same settings", identity.elsewhere)))
            raise ConfigError(
                f"{path} was made with other settings or inputs: {'; '.join(differing)}",
                f"{others}, or `replace` to start over",
            )
        if differing:
            _clear(path)
            finished, damage = None, None
    elif holds_more_than(path, LOCK):
        raise ConfigError(
            f"{path} holds files that no stage wrote",
            " or ".join(filter(None, ("move them", identity.elsewhere and f"give {identity.elsewhere}"))),
        )
    files.remove_temporaries(path)
    recorded = _read_identity(path, lenient=True) if (path / IDENTITY).exists() else None
    document = wanted if finished is None else _restored(path, finished, identity)
    if recorded is None or _differences(recorded, wanted, identity, unknown=finished is not None):
        files.write_json(path / IDENTITY, {**document, BOUND: True})
    elif finished is not None and recorded.get(PLACES, named := document.get(PLACES)) != named:
        # Places are not compared with those that are asked for, but the manifest has them.
        files.write_json(path / IDENTITY, {**recorded, PLACES: named})
    if finished is not None and damage is None:
        (path / PIECES).unlink(missing_ok=True)  # A kill may have come between manifest and this.
    if damage is not None:
        warn(f"{damage}: what differs is made again")
        _reopen(path, finished)
    if replace or not (path / MANIFEST).exists():
        files.write_bytes(path / RECIPE, identity.recipe.encode())
    manifest = finished.manifest if finished is not None and damage is None else {}
    return StageRun(path, identity.kind, identity.command, bool(manifest), manifest, identity=identity)


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


def settings_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that an identity or a manifest records, those that name places too; none where damaged."""
    config, named = document.get("config"), document.get(PLACES)
    if not isinstance(config, dict):
        return {}
    return upgraded(named if isinstance(named, dict) else {}, config)


def is_whole(path: Path, kind: str, identity: Identity | None = None) -> bool:
    """Return whether a directory is complete, not damaged, and of that identity, or shorter, if one is given."""
    if not (path / MANIFEST).is_file():
        return False
    try:
        run = open_run(path, role_of(kind), "")
        run.verify()
    except DataError:
        return False
    if identity is None:
        return True
    known, wanted = _of_manifest(run), files.as_read(identity.document())
    return not _differences(known, wanted, identity) or _is_shorter(known, wanted, identity)


def _is_shorter(known: Mapping[str, Any], wanted: Mapping[str, Any], identity: Identity) -> bool:
    """Return whether known work is that which is wanted but for fewer `train.images`, and how the rate ends there."""
    recorded, asked = _train(known), _train(wanted)
    lengths = recorded.get("images"), asked.get("images")
    if not (isinstance(lengths[0], int) and isinstance(lengths[1], int) and lengths[0] < lengths[1]):
        return False
    if identity.how_to_go_on(recorded, "") is None:
        return False
    ending = {name: asked[name] for name in ENDING if name in asked}
    longer = {**known, "config": {**known["config"], "train": {**recorded, **ending}}}
    return not _differences(longer, wanted, identity)


def _train(document: Mapping[str, Any]) -> dict[str, Any]:
    config = document.get("config")
    train = config.get("train") if isinstance(config, dict) else None
    return train if isinstance(train, dict) else {}


def _go_on(path: Path, known: Mapping[str, Any], wanted: Mapping[str, Any], identity: Identity) -> None:
    """Let work of fewer images be unfinished work of those that are wanted. Raises ConfigError where it cannot.

    Its checkpoints stay its own: the new identity names those before it.
    """
    elsewhere = f"begin another from its weights: `start_from={path}` and another `name`"
    if remedy := identity.how_to_go_on(_train(known), elsewhere):
        raise ConfigError(
            f"{path} was trained for {_train(known)['images']:,} images, and a training of"
            f" {_train(wanted)['images']:,} would have differed from it before its end",
            remedy if remedy == elsewhere else f"{remedy}; or {elsewhere}",
        )
    if (path / MANIFEST).is_file() and not any((path / CHECKPOINTS).glob("*/")):
        raise ConfigError(
            f"{path} has no checkpoint to go on from", f"begin another from its weights: `start_from={path}`"
        )
    before = owner_of(path)
    sha256s = [] if before is None else [*before.before, before.sha256]
    others = [each for each in sha256s if each != sha256_of(wanted)]
    files.write_json(path / IDENTITY, {**wanted, BOUND: True, BEFORE: others})
    (path / MANIFEST).unlink(missing_ok=True)


def _finished(path: Path, identity: Identity) -> tuple[StageRun | None, str | None]:
    """Return a complete directory as its manifest has it, if that is valid, and how the directory is damaged."""
    if not (path / MANIFEST).is_file():
        return None, None
    run = None
    try:
        run = open_run(path, role_of(identity.kind), identity.command)
        run.verify()
    except NewerFormat:
        raise
    except DataError as error:
        return run, error.message
    return run, None


def _reopen(path: Path, finished: StageRun | None) -> None:
    """Make a complete directory an unfinished one. Those of its files that are whole count as finished pieces."""
    if finished is not None:
        table = {name: entry["sha256"] for name, entry in finished.manifest["files"].items()}
        there = {name: digest for name, digest in table.items() if (path / name).is_file()}
        Pieces(path).add({name: digest for name, digest in there.items() if files.sha256_file(path / name) == digest})
    (path / MANIFEST).unlink()


def _of_manifest(finished: StageRun) -> dict[str, Any]:
    inputs = {role: {"fingerprint": entry["fingerprint"]} for role, entry in finished.inputs.items()}
    return {"schema": SCHEMA, "kind": finished.kind, "config": finished.config, "inputs": inputs}


def _restored(path: Path, finished: StageRun, identity: Identity) -> dict[str, Any]:
    """Return the identity that a complete directory had: its checkpoints record the hash of it.

    Earlier versions did not set places apart.
    """
    known = _of_manifest(finished)
    config, named = set_apart(known["config"], identity.places)
    states = (path / CHECKPOINTS).glob("*/state.json")
    with suppress(DataError):
        if sha256_of(known) in [files.read_json(state).get("owner") for state in states]:
            return known
    return {**known, "config": config, PLACES: named}


def _read_identity(path: Path, lenient: bool) -> dict[str, Any] | None:
    """Read an identity. lenient: return None for a damaged one."""
    remedy = "go on with `replace`: nothing is used of the work that is there but what is of these settings"
    try:
        return files.read_json(path / IDENTITY, remedy)
    except DataError:
        if lenient:
            return None
        raise


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


def _differences(
    known: Mapping[str, Any], wanted: Mapping[str, Any], identity: Identity, unknown: bool = False
) -> list[str]:
    """List `setting: was → is` for every setting that differs, and the inputs that hold something else.

    unknown: list settings that there are not now, too, where they have no value.
    """
    config = known.get("config")
    config = upgraded(config, identity.defaults, identity.incidental) if isinstance(config, dict) else config
    previous, places = {**known, "config": config}, identity.places
    compared = [{key: each[key] for key in each if key not in (BOUND, BEFORE, PLACES)} for each in (previous, wanted)]
    before, after = (dict(leaves(each)) for each in compared)
    return [
        f"{key.split('.')[1]}: other contents"
        if key.startswith("inputs.")
        else f"{key.removeprefix('config.')}: {before.get(key)!r} → {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if (before.get(key) != after.get(key) or (unknown and key not in after))
        and key.removeprefix("config.") not in places
    ]
