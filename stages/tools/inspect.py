"""`ldm inspect`: what a directory is, what made it and of what, and how far it is. Looks, and checks no bytes."""

import json
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ...core import files
from ...core.errors import DataError, UserError, as_data_error
from ...core.images.exclusion import read_exclusion
from ...core.images.sets import EXCLUDE, data_of, image_sources
from ...core.interchange.export_record import RECORD, files_in, read_record
from ...core.pipeline.best import described as best_described
from ...core.progress import Outcome, Progress
from ...core.runs.inputs import input_path
from ...core.runs.lock import owner
from ...core.runs.run import MANIFEST, StageRun
from ...core.runs.weights import CONFIG, WEIGHTS
from ...core.settings.recipe_file import leaves
from ...core.training import checkpoint
from ..configs.folders import Inspect
from ..table import KINDS
from .directories import (
    CHECKPOINT,
    EXPORT,
    NETWORK,
    Piece,
    best,
    changed_settings,
    checkpoints,
    find,
    opened,
    recognise_stage,
    recorded_settings,
)


def run(config: Inspect, progress: Progress) -> Outcome:
    """Say what lies at a path: everything about one directory of ours, a line each about several."""
    found = find(config.path)
    first = found[0]
    if len(found) > 1 or first.path != config.path:
        lines = {each.path.relative_to(config.path).as_posix(): _state(each) for each in found}
        return Outcome(config.path, summary=lines, verdict=f"holds {len(found)} of ldm's directories")
    if isinstance(first, Piece):
        described = {CHECKPOINT: _checkpoint, NETWORK: _network, EXPORT: _export}[first.kind]
        article = "an" if first.kind == EXPORT else "a"
        return Outcome(config.path, summary=described(config.path), verdict=f"is {article} {first.kind}")
    return Outcome(config.path, summary=_stage(first, progress), verdict=f"is of kind {first.kind}: {_state(first)}")


def _state(found: StageRun | Piece) -> str:
    """Say in a few words how far a directory is."""
    if isinstance(found, Piece):
        state = f"{_export_state(found.path)}, " if found.kind == EXPORT else ""
        return f"{found.kind}, {state}{_size(found.path)}"
    if (writer := owner(found.path)) is not None:
        return f"being written by {writer}; {_progress(found)}"
    if not found.complete:
        return f"unfinished; {_progress(found)}"
    try:
        opened(found)
    except DataError as error:
        return f"damaged: {error.message}"
    return f"complete, {_size(found.path)}"


def _progress(found: StageRun) -> str:
    """Say how much of its work an unfinished stage would go on from."""
    pieces = KINDS[found.kind].pieces if found.kind in KINDS else None
    if pieces is not None:
        return f"{len(list(found.path.glob(pieces.pattern))):,} {pieces.noun} so far"
    for path in reversed(checkpoints(found.path)):
        try:
            checkpoint.load(path)
        except DataError:
            continue
        settings = recorded_settings(found.path).get("train")
        total = settings.get("images") if isinstance(settings, dict) else None
        seen = f"a checkpoint after {int(path.name):,} images"
        return seen + (f" of {total:,}" if isinstance(total, int) else "")
    return "no checkpoint yet"


def _stage(directory: StageRun, progress: Progress) -> dict[str, str]:
    rows = {"made by": directory.command, **dict(_provenance(directory))}
    settings = changed_settings(directory.kind, recorded_settings(directory.path))
    rows["settings"] = ", ".join(f"{key}={_typed(value)}" for key, value in settings.items()) or "the defaults"
    artifact = _opened(directory)
    if artifact is not None:
        inputs = artifact.inputs
        rows |= {f"of {role}": f"{inputs[role].get('path')}: {_sameness(artifact, role, progress)}" for role in inputs}
        rows |= {name: str(value) for name, value in artifact.metadata.items() if isinstance(value, (int, float, str))}
        hashed = artifact.manifest["files"].values()
        rows["files"] = f"{len(hashed):,} by hash, {sum(entry['bytes'] for entry in hashed) / 1e6:,.1f} MB"
    rows["size"] = _size(directory.path)
    kept = [str(int(path.name)) for path in checkpoints(directory.path)]
    if kept:
        rows["checkpoints"] = f"after {', '.join(kept)} images"
    if best_state := best(directory.path):
        try:
            rows["best state"] = f"{best_described(opened(best_state))}: {best_state.path}"
        except DataError as error:
            rows["best state"] = f"damaged: {error.message}"
    if artifact is not None and "best" in artifact.metadata:
        rows["best"] = best_described(artifact)
    rows["to check it"] = shlex.join(["ldm", "verify", str(directory.path)])
    return rows


def _opened(directory: StageRun) -> StageRun | None:
    try:
        return opened(directory)
    except DataError:  # Unfinished or damaged, as its state says.
        return None


def _provenance(directory: StageRun) -> Iterator[tuple[str, str]]:
    """Yield when and with what a finished stage was made; nothing where its manifest cannot be read."""
    try:
        made = files.read_json(directory.path / MANIFEST).get("provenance")
    except DataError:
        return
    if isinstance(made, dict):
        yield from _made(made)


def _made(made: dict[str, Any]) -> Iterator[tuple[str, str]]:
    packages = made["packages"] if isinstance(made.get("packages"), dict) else {}
    versions = {"ldm": made.get("ldm"), "python": made.get("python"), **packages}
    yield "made at", str(made.get("created"))
    yield "made with", ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    yield "commit", str(made.get("git") or "not from a checkout")


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _sameness(artifact: StageRun, role: str, progress: Progress) -> str:
    """Say whether an input is still there and holds what it held. Images are read and hashed for it."""
    recorded = artifact.inputs[role]["fingerprint"]
    if role == "data":
        progress.note("hashing the images it was made of")
        try:
            found = image_sources(data_of(artifact)).as_input["fingerprint"]
        except UserError as error:
            return f"not to be had here ({error.message})"
        return "still the same" if found == recorded else "changed since"
    if role == EXCLUDE:
        try:
            found = read_exclusion(Path(artifact.inputs[role]["path"])).sha256
        except DataError:
            return "not there"
        return "still the same" if found == recorded else "changed since"
    producer = recognise_stage(input_path(artifact, role))
    if producer is None:
        return f"not looked at (recorded {recorded[:12]})" if input_path(artifact, role).exists() else "not there"
    try:
        return "still the same" if opened(producer).fingerprint == recorded else "changed since"
    except DataError as error:
        return error.message


def _checkpoint(path: Path) -> dict[str, str]:
    """Describe a checkpoint, which is read whole for it."""
    try:
        found = checkpoint.load(path)
    except DataError as error:
        return {"state": f"damaged: {error.message}", "size": _size(path)}
    rows = {"state": "whole", "images seen": f"{int(path.name):,}" if path.name.isdecimal() else "unknown"}
    rows["steps"] = str(found.state.get("steps"))
    for name, tensors in found.groups.items():
        count = sum(tensor.numel() for tensor in tensors.values())
        rows[name] = f"{len(tensors):,} tensors of {count:,} numbers"
    guard = found.state.get("guard")
    rows["skipped steps"] = str(guard.get("skipped") if isinstance(guard, dict) else None)
    return rows | {"size": _size(path)}


def _network(path: Path) -> dict[str, str]:
    """Describe a network's folder by its configuration and the header of its weights."""
    described = files.read_json(path / CONFIG)
    settings = described.get("config")
    border = as_data_error(f"{path / WEIGHTS} cannot be read", "make the stage that it belongs to again")
    with border, safe_open(path / WEIGHTS, "pt") as tensors:
        count = sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    rows = {"kind": str(described.get("kind")), "parameters": f"{count:,}"}
    rows["settings"] = ", ".join(f"{key}={json.dumps(value)}" for key, value in leaves(settings or {}))
    return rows | {"size": _size(path)}


def _export_state(path: Path) -> str:
    """Say whether an export's files are there with the sizes that they had."""
    try:
        record = read_record(path)
        for name in record.hashes:
            record.check_size(name)
    except DataError as error:
        return f"damaged: {error.message}"
    return "complete"


def _export(path: Path) -> dict[str, str]:
    """Describe an export by its record, and by the sizes of its files."""
    rows = {"state": _export_state(path)}
    try:
        record = read_record(path)
    except DataError:
        return rows | {"size": _size(path)}
    rows["made by"] = record.command
    made_of, made = record.content.get("made_of"), record.content.get("provenance")
    if isinstance(made_of, dict):
        rows |= {f"of {role}": str(value)[:12] for role, value in made_of.items() if role != "to"}
        rows["for"] = str(made_of.get("to"))
    rows |= dict(_made(made)) if isinstance(made, dict) else {"made at": "not recorded"}
    added = sorted(set(files_in(path)) - record.hashes.keys() - {RECORD})
    rows["files"] = f"{len(record.hashes):,} by hash" + (f", and added: {', '.join(added)}" if added else "")
    return rows | {"size": _size(path), "to check it": shlex.join(["ldm", "verify", str(path)])}


def _size(path: Path) -> str:
    return f"{sum(file.stat().st_size for file in path.rglob('*') if file.is_file()) / 1e6:,.1f} MB"
