"""States of its training that a generator's folder keeps: `best/`, by the criterion, and `early/`, to guide away from.

Each is a folder of the same kind: it has the layout, the manifest and the inputs of the folder that it lies in, so that
whatever opens that one opens it too, also while the training continues. It is written beside its final name and renamed
once whole.
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
from ..runs.states import BEST, STATES, mend


@dataclass(frozen=True)
class KeptState:
    """The folder of a state of a training.

    write: writes the network and what sampling needs beside it to `final/`, as do other processes if it is sharded.
    description: what sampling needs beside the weights. name: BEST or EARLY.
    """

    work: StageRun
    write: Callable[[Path, dict[str, Any]], None]
    description: Mapping[str, Any]
    name: str

    @property
    def path(self) -> Path:
        return self.work.path / self.name

    def is_there(self) -> bool:
        """Return whether this state of this training is kept, and whole."""
        identity = self.work.identity
        assert identity is not None, "the training has claimed its directory"
        return is_whole(self.path, identity.kind, identity)

    def save(self, images_seen: int, found: Mapping[str, Any]) -> None:
        """Save the network's current state in place of the last one.

        found: JSON, why it is kept, for its provenance. All processes call it, as the network may be sharded; the main
        one writes.
        """
        if not processes.world().is_main:
            processes.barrier()
            self.write(self.path / "final", {})
            return
        found, identity = {"images_seen": images_seen, **found}, self.work.identity
        assert identity is not None, "the training has claimed its directory"
        inputs = {
            name: {**entry, "path": Path("..", entry["path"]).as_posix()} for name, entry in identity.inputs.items()
        }
        with files.new_directory(self.path, replace=True) as folder:
            processes.barrier()  # The others wait at a barrier, which also raises this process's errors so far.
            self.write(folder / "final", {**self.description, self.name: found})
            inside = replace(self.work, path=folder, identity=replace(identity, inputs=inputs))
            outputs = ["final/model.safetensors", "final/config.json"]
            inside.commit(outputs, {**self.description, "images_seen": images_seen, self.name: found})


def open_kept(folder: Path, made_by: str, name: str) -> StageRun:
    """Open a state in a generator's folder, BEST or EARLY. Raises DataError, also where the training kept none."""
    role = role_of(kind_of(folder) or folder.name)
    if not (folder / name / MANIFEST).is_file():
        open_run(folder, role, made_by)
        raise DataError(f"{folder} {STATES[name].missing}", STATES[name].remedy)
    return open_run(folder / name, role, made_by, mend(folder / name))


class _Kept(BaseModel):
    model_config = ConfigDict(strict=True)
    images_seen: Count
    criterion: Text
    value: Number


def kept_best(folder: Path) -> dict[str, Any] | None:
    """Return `images_seen`, `criterion` and `value` of a generator's best state; None where none is kept."""
    try:
        found = open_kept(folder, "", BEST).metadata.get(BEST)
    except DataError:
        return None
    return found if first_wrong(_Kept, found) is None else None


def described(best: StageRun) -> str:
    """Return a line on a best state: images seen, and its value."""
    found = best.metadata[BEST]
    floor = found["real_against_real"].get(found["criterion"])
    beside = f" (real against real {floor:.4g})" if floor is not None else ""
    return f"after {found['images_seen']:,} images, {found['criterion']} {found['value']:.4g}{beside}"
