"""Checkpoints: whole or invisible, the newest that verifies wins, the last few are kept.

A checkpoint is the directory `checkpoints/IMAGES/` with one safetensors file per group of tensors, `state.json`, and
`manifest.json` with the sha256 of each and of their list. It is written beside its final name, fsynced and renamed.
`state.json` has the sha256 of the identity of its training, so that those of others are not resumed from.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .. import files
from ..distributed import tensor_file
from ..distributed.sharded_tensors import ShardedTensors, sharded_tensors
from ..errors import DataError, Diverged, as_data_error
from .lock import require_held
from .pieces import CHECKPOINTS, IDENTITY, owner_of

FOLDER = CHECKPOINTS
STATE = "state.json"
MANIFEST = "manifest.json"
SCHEMA = 1
OWN_DIGEST = "manifest_sha256"
TIME_CONVENTION = "t = 0 is data, t = 1 is noise"

Tensors = Mapping[str, torch.Tensor]
Read = Callable[[Path], dict[str, torch.Tensor]]
"""Path of a safetensors file → its tensors, or this process's rows of them, on the CPU."""


@dataclass(frozen=True)
class Checkpoint:
    """What training resumes from. groups: file stem → named tensors, on the CPU. state: JSON."""

    path: Path
    groups: dict[str, dict[str, torch.Tensor]]
    state: dict[str, Any]


def save(
    folder: Path, images: int, groups: Mapping[str, Tensors | ShardedTensors], state: Mapping[str, Any], keep: int
) -> Path:
    """Write a checkpoint after `images` images and keep the `keep` newest up to it. Returns its directory.

    Checkpoints of more images are removed: they were damaged, so that training resumed from an earlier one. Raises
    Diverged, writing nothing, where a tensor is not finite.
    """
    assert keep > 0, f"keep {keep}"
    final, owner = path_of(folder, images), owner_of(folder)
    of_run = {} if owner is None else {"owner": owner.sha256}
    require_held(folder)
    final.parent.mkdir(exist_ok=True)
    with files.new_directory(final, replace=True) as temporary:
        for name, tensors in groups.items():
            group = tensors if isinstance(tensors, ShardedTensors) else sharded_tensors(tensors)
            tensor_file.write(temporary / f"{name}.safetensors", group.full, _finite(name, group))
        files.write_json(temporary / STATE, {**state, **of_run, "time_convention": TIME_CONVENTION})
        table = {path.name: files.sha256_file(path) for path in sorted(temporary.iterdir())}
        manifest = {"schema": SCHEMA, "files": table, "sha256": files.sha256_json(table)}
        files.write_json(temporary / MANIFEST, files.sealed(manifest, OWN_DIGEST))
    found = saved(folder)
    kept = found[: found.index(final) + 1][-keep:]
    for path in found:
        if path not in kept:
            shutil.rmtree(path)
    return final


def path_of(folder: Path, images: int) -> Path:
    """Return the directory of the checkpoint after `images` images."""
    return folder / FOLDER / f"{images:010d}"


def newest(folder: Path, warn: Callable[[str], None], read: Read = load_file) -> Checkpoint | None:
    """Load the newest checkpoint that verifies, None where there is none. read: see `load`.

    One that is damaged, or of another training, is skipped with a warning. Raises DataError when all are.
    """
    if (folder / FOLDER).is_dir():
        files.remove_temporaries(folder / FOLDER)
    found = saved(folder)
    for path in reversed(found):
        try:
            return load(path, read)
        except DataError as error:
            warn(f"passing over a checkpoint: {error.message}")
    if found:
        where = folder / FOLDER
        raise DataError(
            f"no checkpoint in {where} is whole and of this training", f"restore one, or remove {where} to start over"
        )
    return None


def saved(folder: Path) -> list[Path]:
    """List the checkpoints in a folder, oldest first, damaged ones too."""
    if not (folder / FOLDER).is_dir():
        return []
    return sorted((path for path in (folder / FOLDER).iterdir() if path.name.isdecimal()), key=lambda p: int(p.name))


def load(path: Path, read: Read = load_file) -> Checkpoint:
    """Load one checkpoint, its tensors by `read`.

    Raises DataError naming the file that is missing or damaged, or the checkpoint if it is of another training than the
    folder it lies in.
    """
    manifest = files.read_sealed(path / MANIFEST, OWN_DIGEST, SCHEMA)
    table = manifest.get("files")
    if not isinstance(table, dict) or manifest.get("sha256") != files.sha256_json(table):
        raise DataError(f"{path / MANIFEST} is damaged: its list of files differs from its sha256")
    groups = {}
    for name, digest in table.items():
        if "/" in name or not files.is_inside(name):
            raise DataError(f"{path / MANIFEST} is damaged: it lists a file {name[:80]!r}")
        file = path / name
        if not file.is_file():
            raise DataError(f"{file} is missing")
        if files.sha256_file(file) != digest:
            raise DataError(f"{file} is damaged: its sha256 differs from {MANIFEST}")
        if file.suffix == ".safetensors":
            with as_data_error(f"{file} is damaged"):
                groups[file.stem] = read(file)
    state, owner = files.read_json(path / STATE), owner_of(path.parent.parent)
    if owner is not None and not owner.owns(state.get("owner")):
        where = path.parent.parent / IDENTITY
        raise DataError(f"{path} is of another training: its identity is not that of {where}")
    return Checkpoint(path, groups, state)


def _finite(group: str, tensors: ShardedTensors) -> Callable[[str], torch.Tensor]:
    """Return a function that reads a group's tensors, and raises Diverged for one that is not finite."""

    def read(name: str) -> torch.Tensor:
        tensor = tensors.read(name)
        if not bool(torch.isfinite(tensor).all()):
            remedy = "lower the learning rate; no checkpoint with such numbers was written"
            raise Diverged(f"training diverged: {name} ({group}) is no longer finite", remedy)
        return tensor

    return read
