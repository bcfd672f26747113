"""`ldm inspect`: what a directory is, what made it and of what, and how far it is; what is damaged is named."""

import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ...core import files
from ...core.errors import DataError, UserError, as_data_error
from ...core.features.texts import CLIP, TEXT_ENCODER, files_sha256
from ...core.images.exclusion import read_exclusion
from ...core.images.parameters import read_parameters
from ...core.images.sets import CAPTIONS, EXCLUDE, data_of, image_sources
from ...core.interchange.export_record import RECORD, files_in, read_record
from ...core.pipeline.kept import described as best_described
from ...core.progress import Outcome, Progress
from ...core.runs import checkpoint
from ...core.runs.inputs import input_path
from ...core.runs.lock import owner
from ...core.runs.pieces import Pieces
from ...core.runs.run import StageRun
from ...core.runs.weights import CONFIG, WEIGHTS, check_network, remedy_for
from ...core.settings.recipe_file import leaves
from ..configs.folders import Inspect
from ..table import KINDS
from .directories import (
    CHECKPOINT,
    EXPORT,
    NETWORK,
    Piece,
    best,
    changed_settings,
    find,
    opened,
    recognise_stage,
    recorded_settings,
)
from .words import megabytes

_HASHED = 1 << 30  # bytes, a second or two


def run(config: Inspect, progress: Progress) -> Outcome:
    """Say what lies at a path: everything about one directory of ours, a line each about several."""
    if config.path.is_file():
        return Outcome(config.path, summary=_image(config.path), verdict="is an image of ldm")
    found = find(config.path)
    first = found[0]
    if len(found) > 1 or first.path != config.path:
        lines = {each.path.relative_to(config.path).as_posix(): _state(each) for each in found}
        return Outcome(config.path, summary=lines, verdict=f"holds {len(found)} of ldm's directories")
    if isinstance(first, Piece):
        describe = {CHECKPOINT: _checkpoint, NETWORK: _network, EXPORT: _export}[first.kind]
        rows, verdict = describe(first.path), f"is {'an' if first.kind == EXPORT else 'a'} {first.kind}"
    else:
        run, state = _look(first)
        rows, verdict = _stage(first, run, progress), f"is of kind {first.kind}: {state}"
    rows |= {"size": _size(first.path), "to check it": shlex.join(["ldm", "verify", str(first.path)])}
    return Outcome(config.path, summary=rows, verdict=verdict)


def _image(path: Path) -> dict[str, str]:
    """Describe an image by the parameters that it carries."""
    drawn = read_parameters(path)
    rows = {"drawn by": f"ldm {drawn.command}"}
    rows |= {f"of {role}": fingerprint for role, fingerprint in drawn.model.items()}
    rows |= {name: _typed(value) for name, value in {**drawn.condition, **drawn.settings}.items()}
    rows |= {f"made of the {role}": f"{each.name}, sha256 {each.sha256}" for role, each in drawn.origins.items()}
    again = ["ldm", drawn.command, "--like", str(path)]
    for role, origin in drawn.origins.items():
        again += ["--mask", origin.name] if role == "mask" else [origin.name]
    return {**rows, "to draw it again": shlex.join(again)}


def _state(found: StageRun | Piece) -> str:
    """Say in a few words how far a directory is."""
    if isinstance(found, StageRun):
        return _look(found)[1]
    state = f"{_export_state(found.path)}, " if found.kind == EXPORT else ""
    return f"{found.kind}, {state}{_size(found.path)}"


def _look(found: StageRun) -> tuple[StageRun | None, str]:
    """Open a stage's directory, if it is complete and not damaged, and say in a few words how far it is."""
    run, error = None, None
    try:
        run = opened(found)
        large = sum(entry["bytes"] for entry in run.manifest["files"].values()) > _HASHED
        run.verify_sizes() if large else run.verify()
    except DataError as raised:
        error = raised
    if (writer := owner(found.path)) is not None:
        return run, f"being written by {writer}; {_progress(found)}"
    if not found.complete:
        return None, f"unfinished; {_progress(found)}"
    if error is not None:
        return run, f"damaged: {error.message}"
    return run, f"complete, {_size(found.path)}" + (", of which only sizes were compared" if large else "")


def _progress(found: StageRun) -> str:
    """Say how much of its work an unfinished stage would go on from."""
    if found.kind in KINDS and (pieces := KINDS[found.kind].pieces):
        return f"{len(Pieces(found.path).hashes):,} {pieces} so far"
    for path in reversed(checkpoint.saved(found.path)):
        try:
            checkpoint.load(path)
        except DataError:
            continue
        settings = recorded_settings(found.path).get("train")
        total = settings.get("images") if isinstance(settings, dict) else None
        seen = f"a checkpoint after {int(path.name):,} images"
        return seen + (f" of {total:,}" if isinstance(total, int) else "")
    return "no checkpoint yet"


def _stage(found: StageRun, run: StageRun | None, progress: Progress) -> dict[str, str]:
    """Describe a stage's directory. run: the same opened, where it is complete and not damaged."""
    rows = {"made by": found.command, **(_made(run.provenance) if run is not None else {})}
    settings = changed_settings(found.kind, recorded_settings(found.path))
    rows["settings"] = ", ".join(f"{key}={_typed(value)}" for key, value in settings.items()) or "the defaults"
    if run is not None:
        rows |= {f"of {role}": f"{run.inputs[role]['path']}: {_sameness(run, role, progress)}" for role in run.inputs}
        rows |= {name: str(value) for name, value in run.metadata.items() if isinstance(value, (int, float, str))}
        hashed = run.manifest["files"].values()
        rows["files"] = f"{len(hashed):,} by hash, {megabytes(sum(entry['bytes'] for entry in hashed))}"
    if kept := [str(int(path.name)) for path in checkpoint.saved(found.path)]:
        rows["checkpoints"] = f"after {', '.join(kept)} images"
    if emas := checkpoint.emas(found.path):
        rows["EMAs kept"] = f"{len(emas):,}, after {int(emas[0].name):,} to {int(emas[-1].name):,} images"
    if best_state := best(found.path):
        opened_best, state = _look(best_state)
        rows["best state"] = state if opened_best is None else f"{best_described(opened_best)}: {best_state.path}"
    if run is not None and "best" in run.metadata:
        rows["best"] = best_described(run)
    return rows


def _made(made: Mapping[str, Any]) -> dict[str, str]:
    """Say when and with what something was made."""
    packages = made["packages"] if isinstance(made.get("packages"), dict) else {}
    versions = {"ldm": made.get("ldm"), "python": made.get("python"), **packages}
    return {
        "made at": str(made.get("created")),
        "made with": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "commit": str(made.get("git") or "not from a checkout"),
    }


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _sameness(run: StageRun, role: str, progress: Progress) -> str:
    """Say whether an input is still there and holds what it held. Images are read and hashed for it."""
    recorded, place = run.inputs[role]["fingerprint"], Path(run.inputs[role]["path"])
    try:
        if role == "data":
            progress.note("hashing the images it was made of")
            found = image_sources(data_of(run)).as_input["fingerprint"]
        elif role == CAPTIONS:
            found = image_sources(data_of(run)).with_captions().caption_input[CAPTIONS]["fingerprint"]
        elif role.startswith(TEXT_ENCODER) or role == CLIP:
            found = files_sha256(place) if place.is_dir() else "not there"
        elif role == EXCLUDE:
            found = read_exclusion(place).sha256
        elif (producer := recognise_stage(input_path(run, role))) is not None:
            found = opened(producer).fingerprint
        else:
            is_there = input_path(run, role).exists() or place.exists()
            return f"not looked at (recorded {recorded[:12]})" if is_there else "not there"
    except UserError as error:
        away = f"not to be had here ({error.message})"
        said = {"data": away, CAPTIONS: away, EXCLUDE: "not there"}
        return said.get(role, error.message)
    if found == "not there":
        return found
    return "still the same" if found == recorded else "changed since"


def _checkpoint(path: Path) -> dict[str, str]:
    """Describe a checkpoint, which is read whole for it."""
    try:
        found = checkpoint.load(path)
    except DataError as error:
        return {"state": f"damaged: {error.message}"}
    rows = {"state": "whole", "images seen": f"{int(path.name):,}" if path.name.isdecimal() else "unknown"}
    rows["steps"] = str(found.state.get("steps"))
    for name, tensors in found.groups.items():
        count = sum(tensor.numel() for tensor in tensors.values())
        rows[name] = f"{len(tensors):,} tensors of {count:,} numbers"
    guard = found.state.get("guard")
    return rows | {"skipped steps": str(guard.get("skipped") if isinstance(guard, dict) else None)}


def _network(path: Path) -> dict[str, str]:
    """Describe a network's folder by its configuration and the header of its weights."""
    described = files.read_json(path / CONFIG)
    settings, state = described.get("config"), "whole"
    try:
        check_network(path, described)
    except DataError as error:
        state = f"damaged: {error.message}"
    border = as_data_error(f"{path / WEIGHTS} cannot be read", remedy_for(path, "give the folder of a whole network"))
    with border, safe_open(path / WEIGHTS, "pt") as tensors:
        count = sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    listed = ", ".join(f"{key}={json.dumps(value)}" for key, value in leaves(settings or {}))
    return {"state": state, "kind": str(described.get("kind")), "parameters": f"{count:,}", "settings": listed}


def _export_state(path: Path) -> str:
    """Say whether an export's files are there as they were written."""
    try:
        record = read_record(path)
        for name in record.hashes:
            record.check(name)
    except DataError as error:
        return f"damaged: {error.message}"
    return "complete"


def _export(path: Path) -> dict[str, str]:
    """Describe an export by its record."""
    rows = {"state": _export_state(path)}
    try:
        record = read_record(path)
    except DataError:
        return rows
    rows["made by"] = record.command
    made_of, made = record.content.get("made_of"), record.content.get("provenance")
    if isinstance(made_of, dict):
        rows |= {f"of {role}": str(value)[:12] for role, value in made_of.items() if role != "to"}
        rows["for"] = str(made_of.get("to"))
    rows |= _made(made) if isinstance(made, dict) else {"made at": "not recorded"}
    added = sorted(set(files_in(path)) - record.hashes.keys() - {RECORD})
    return rows | {"files": f"{len(record.hashes):,} by hash" + (f", and added: {', '.join(added)}" if added else "")}


def _size(path: Path) -> str:
    return megabytes(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
