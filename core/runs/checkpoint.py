"""Checkpoints: whole or invisible, the newest that verifies wins, the last few are kept.

A checkpoint is the directory `checkpoints/IMAGES/` with one safetensors file per group of tensors, `state.json`, and
`manifest.json` with the sha256 of each and of their list. It is written beside its final name, fsynced and renamed.
`state.json` has the sha256 of the identity of its training, so that those of others are not resumed from.

A checkpoint that is removed may leave its EMA: `emas/IMAGES/` is a checkpoint of that group alone.
"""

import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
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
EMAS = "emas"
EMA = "ema.safetensors"
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
    """What training resumes from.

    groups: file stem → named tensors, on the CPU. state: JSON. hashes: the sha256 of each file, by its name.
    """

    path: Path
    groups: dict[str, dict[str, torch.Tensor]]
    state: dict[str, Any]
    hashes: Mapping[str, str] = field(default_factory=dict)


def save(
    folder: Path,
    images: int,
    groups: Mapping[str, Tensors | ShardedTensors],
    state: Mapping[str, Any],
    keep: int,
    leaves_ema: Callable[[int], bool] = lambda images: False,
) -> Path:
    """Write a checkpoint after `images` images and keep the `keep` newest up to it. Returns its directory.

    Checkpoints of more images are removed: they were damaged, so that training resumed from an earlier one. Raises
    Diverged, writing nothing, where a tensor is not finite. leaves_ema: whether the EMA stays of a checkpoint after so
    many images, when that is removed as one of the oldest.
    """
    assert keep > 0, f"keep {keep}"
    final, owner = path_of(folder, images), owner_of(folder)
    of_run = {} if owner is None else {"owner": owner.sha256}
    require_held(folder)
    final.parent.mkdir(exist_ok=True)
    # First, so that a kill meanwhile leaves the checkpoint that training resumes from, and this is done again.
    _leave_emas(folder, images, keep, leaves_ema)
    with files.new_directory(final, replace=True) as temporary:
        for name, tensors in groups.items():
            group = tensors if isinstance(tensors, ShardedTensors) else sharded_tensors(tensors)
            tensor_file.write(temporary / f"{name}.safetensors", group.full, _finite(name, group))
        files.write_json(temporary / STATE, {**state, **of_run, "time_convention": TIME_CONVENTION})
        _write_manifest(temporary, {path.name: files.sha256_file(path) for path in sorted(temporary.iterdir())})
    found = saved(folder)
    kept = found[: found.index(final) + 1][-keep:]
    for path in found:
        if path not in kept:
            shutil.rmtree(path)
    return final


def _write_manifest(at: Path, table: Mapping[str, str]) -> None:
    """Write the manifest of a checkpoint in a temporary folder. table: the sha256 of each file."""
    manifest = {"schema": SCHEMA, "files": table, "sha256": files.sha256_json(table)}
    files.write_json(at / MANIFEST, files.sealed(manifest, OWN_DIGEST))


def _leave_emas(folder: Path, images: int, keep: int, leaves_ema: Callable[[int], bool]) -> None:
    """Copy the EMAs of the checkpoints that the one after `images` images pushes out, each with its state.

    EMAs of as many images or more are removed: training began again before them.
    """
    for path in emas(folder):
        if int(path.name) >= images:
            shutil.rmtree(path)
    earlier = [path for path in saved(folder) if int(path.name) < images]
    for path in earlier[: max(0, len(earlier) - keep + 1)]:
        if leaves_ema(int(path.name)):
            _leave_ema(path, folder / EMAS)


def _leave_ema(path: Path, at: Path) -> None:
    """Copy the EMA of a checkpoint, unless that is damaged. at: the folder of EMAs.

    The sha256 is the one that was recorded when it was written, so that damage of the copy is found, too.
    """
    with suppress(DataError):
        hashes = load(path, only=()).hashes
        if EMA not in hashes or not (path / EMA).is_file():
            return
        at.mkdir(exist_ok=True)
        with files.new_directory(at / path.name, replace=True) as temporary:
            for name in (EMA, STATE):
                shutil.copyfile(path / name, temporary / name)
            _write_manifest(temporary, {name: hashes[name] for name in (EMA, STATE)})


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
    return _numbered(folder / FOLDER)


def emas(folder: Path) -> list[Path]:
    """List the EMAs that removed checkpoints left in a folder, oldest first, damaged ones too."""
    return _numbered(folder / EMAS)


def _numbered(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))


def load(path: Path, read: Read = load_file, only: Collection[str] | None = None) -> Checkpoint:
    """Load one checkpoint, its tensors by `read`. only: the names of the files to look at besides `state.json`.

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
        if only is not None and name not in (STATE, *only):
            continue
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
    return Checkpoint(path, groups, state, table)


def mend(path: Path) -> str:
    """Return the remedy for a damaged checkpoint, or a damaged EMA that one left."""
    if path.parent.name == EMAS:
        return f"remove {path}: `ldm average` then does without it, and nothing else needs it"
    return f"remove {path}: training goes on from the one before, and what is finished does not need it"


def _finite(group: str, tensors: ShardedTensors) -> Callable[[str], torch.Tensor]:
    """Return a function that reads a group's tensors, and raises Diverged for one that is not finite."""

    def read(name: str) -> torch.Tensor:
        tensor = tensors.read(name)
        if not bool(torch.isfinite(tensor).all()):
            remedy = "lower the learning rate; no checkpoint with such numbers was written"
            raise Diverged(f"training diverged: {name} ({group}) is no longer finite", remedy)
        return tensor

    return read
