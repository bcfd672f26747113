"""`best/` in a generator's folder: the best state of its training by the criterion, a folder of the same kind.

It has the layout, the manifest and the inputs of the folder that it lies in, so that whatever opens that one opens
it too, also while the training continues. It is written beside its final name and renamed once whole.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from .. import files
from ..distributed import processes
from ..errors import DataError
from ..runs.claim import is_whole
from ..runs.roles import role_of
from ..runs.run import MANIFEST, StageRun, kind_of, open_run
from ..runs.schemas import Count, Number, Text, first_wrong

BEST = "best"  # in a generator's folder: its best state, a folder of the same kind


@dataclass(frozen=True)
class BestState:
    """The folder of a training's best state.

    write: writes the network and what sampling needs beside it to `final/`, as do other processes if it is sharded.
    description: what sampling needs beside the weights.
    """

    work: StageRun
    write: Callable[[Path, dict[str, Any]], None]
    description: Mapping[str, Any]

    @property
    def path(self) -> Path:
        return self.work.path / BEST

    def is_there(self) -> bool:
        """Return whether a best state of this training is kept, and whole."""
        identity = self.work.identity
        assert identity is not None, "the training has claimed its directory"
        return is_whole(self.path, identity.kind, identity)

    def save(self, images_seen: int, measured: Mapping[str, Any]) -> None:
        """Save the network's current state in place of the last one.

        measured: JSON, for its provenance. All processes call it, as the network may be sharded; the main one writes.
        """
        if not processes.world().is_main:
            processes.barrier()
            self.write(self.path / "final", {})
            return
        found, identity = {"images_seen": images_seen, **measured}, self.work.identity
        assert identity is not None, "the training has claimed its directory"
        inputs = {
            name: {**entry, "path": Path("..", entry["path"]).as_posix()} for name, entry in identity.inputs.items()
        }
        with files.new_directory(self.path, replace=True) as folder:
            processes.barrier()  # The others wait at a barrier, which also raises this process's errors so far.
            self.write(folder / "final", {**self.description, "best": found})
            inside = replace(self.work, path=folder, identity=replace(identity, inputs=inputs))
            outputs = ["final/model.safetensors", "final/config.json"]
            inside.commit(outputs, {**self.description, "images_seen": images_seen, "best": found})


def open_best(folder: Path, made_by: str) -> StageRun:
    """Open the best state in a generator's folder. Raises DataError, also where the training kept none."""
    role = role_of(kind_of(folder) or folder.name)
    if not (folder / BEST / MANIFEST).is_file():
        open_run(folder, role, made_by)
        remedy = "take its last state, or train with `metrics.every=100k` and `replace`"
        raise DataError(f"{folder} keeps no best state: its samples were not measured in training", remedy)
    return open_run(folder / BEST, role, made_by, mend_best(folder / BEST))


def mend_best(path: Path) -> str:
    """Return the remedy for a damaged best state: no checkpoint holds it any more."""
    return f"remove {path}: the training that it is of is whole without"


class _Kept(BaseModel):
    model_config = ConfigDict(strict=True)
    images_seen: Count
    criterion: Text
    value: Number


def kept_best(folder: Path) -> dict[str, Any] | None:
    """Return `images_seen`, `criterion` and `value` of a generator's best state; None where none is kept."""
    try:
        found = open_best(folder, "").metadata.get("best")
    except DataError:
        return None
    return found if first_wrong(_Kept, found) is None else None


def described(best: StageRun) -> str:
    """Return a line on a best state: images seen, and its value."""
    found = best.metadata["best"]
    floor = found["real_against_real"].get(found["criterion"])
    beside = f" (real against real {floor:.4g})" if floor is not None else ""
    return f"after {found['images_seen']:,} images, {found['criterion']} {found['value']:.4g}{beside}"
