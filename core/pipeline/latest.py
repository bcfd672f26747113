"""`latest/` in a generator's folder: the EMA in the newest checkpoint of its training, a folder of the same kind.

Who draws from it makes it, and makes it again once there is a newer checkpoint. It has the layout and the inputs of the
folder that it lies in, so that whatever opens that one opens it too. What a checkpoint lacks for that is in
`generator.json`, from the start of the training: the description of the network, and the inputs.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from safetensors.torch import save_file

from .. import files
from ..errors import DataError
from ..runs import checkpoint
from ..runs.claim import settings_of
from ..runs.roles import role_of
from ..runs.run import IDENTITY, MANIFEST, Identity, StageRun, kind_of, open_run
from ..runs.schemas import Input, Text, first_wrong
from ..runs.states import LATEST, STATES, mend
from ..runs.weights import CONFIG, WEIGHTS

OUTLINE = "generator.json"
_OF_CONFIG = ("format", "kind", "config", "weights_sha256")  # keys of a network's description; the others are metadata
_SEAL, _SCHEMA = "sha256", 1  # of the outline; those of before were not sealed


class _Outline(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    network: dict[Text, Any]
    inputs: dict[Text, Input]


def write_outline(folder: Path, network: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Write down what a checkpoint lacks of a generator. network: its description, as `final/config.json` has it."""
    files.write_json(folder / OUTLINE, files.sealed({"network": dict(network), "inputs": dict(inputs)}, _SEAL))


def open_latest(folder: Path, made_by: str) -> StageRun:
    """Open the newest checkpoint of a training. Raises DataError where there is none, or it is damaged."""
    saved = checkpoint.saved(folder)
    if not saved or not (folder / IDENTITY).is_file():
        raise DataError(f"{folder} {STATES[LATEST].missing}", f"train it: {made_by}")
    role, newest = role_of(kind_of(folder) or folder.name), saved[-1]
    remedy = mend(folder / LATEST)
    weights = files.sha256_file(newest / checkpoint.EMA) if (newest / checkpoint.EMA).is_file() else ""
    wanted = {"images_seen": int(newest.name), "ema_sha256": weights}
    if (folder / LATEST / MANIFEST).is_file():
        there = open_run(folder / LATEST, role, made_by, remedy)
        if there.metadata.get(LATEST) == wanted:
            return there
    ema = checkpoint.load(newest, only=(checkpoint.EMA,)).groups["ema"]
    with files.new_directory(folder / LATEST, replace=True) as temporary:
        write_state(temporary, folder, made_by, lambda path: save_file(ema, path), LATEST, wanted)
    return open_run(folder / LATEST, role, made_by, remedy)


def _outline(folder: Path, made_by: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the description of the network and the inputs: of a finished training from what it checked and wrote."""
    if (folder / MANIFEST).is_file():
        finished = open_run(folder, role_of(kind_of(folder) or folder.name), made_by)
        return files.read_json(finished.file(f"final/{CONFIG}")), finished.inputs
    path, going_on = folder / OUTLINE, f"go on with the training, which writes it: {made_by}"
    if not path.is_file():
        raise DataError(f"{folder} has no {OUTLINE}: an older ldm began it", going_on)
    remedy = f"remove {path}; then {going_on}"
    outline = files.read_sealed(path, _SEAL, _SCHEMA, remedy)
    wrong = first_wrong(_Outline, outline)
    if wrong is not None:
        raise DataError(f"{path} is damaged: {wrong}", remedy)
    return outline["network"], outline["inputs"]


def write_state(
    at: Path,
    folder: Path,
    made_by: str,
    write_weights: Callable[[Path], None],
    name: str,
    found: Mapping[str, Any],
) -> None:
    """Write the network's folder and the manifest of a state of a training into a temporary directory.

    at: beside the place that it is for. folder: of the training. name: of the kind of state. found: JSON, why it is
    this state, with `images_seen`.
    """
    described, recorded = _outline(folder, made_by)
    identity = files.read_json(folder / IDENTITY)
    (at / "final").mkdir()
    write_weights(at / "final" / WEIGHTS)
    own = {"weights_sha256": files.sha256_file(at / "final" / WEIGHTS), name: dict(found)}
    files.write_json(at / "final" / CONFIG, {**described, **own})
    metadata = {key: value for key, value in described.items() if key not in _OF_CONFIG}
    up = os.path.relpath(folder, at)
    inputs = {role: {**entry, "path": Path(up, entry["path"]).as_posix()} for role, entry in recorded.items()}
    made = Identity(identity["kind"], made_by, settings_of(identity), inputs, recipe="")
    work = StageRun(at, made.kind, made_by, identity=made)
    metadata |= {"images_seen": found["images_seen"], name: dict(found)}
    work.commit([f"final/{WEIGHTS}", f"final/{CONFIG}"], metadata)
