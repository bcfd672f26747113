"""What the page of a run shows: how far its stages are, and the pictures that its trainings drew."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ....core.conditioning.conditioning import Conditioning, NoConditioning
from ....core.conditioning.registry import conditioning_of
from ....core.errors import DataError
from ....core.files import sha256_json
from ....core.images.decode import is_picture
from ....core.images.grid import cells
from ....core.progress import duration
from ....core.runs.run import StageRun
from ...table import KINDS
from ..directories import recorded_settings
from ..summary import Summary, numbered, progress_of, seconds
from ..words import rate

_SHOWN = ("loss", "val_loss", "val_psnr", "val_accuracy")


@dataclass
class Shown:
    """A moment of a run.

    state: JSON for the page's script. pictures: the files that it may ask for, by address. version: another one once
    the report of the run would be another.
    """

    version: str
    state: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)


def shown(run: Summary) -> Shown:
    """Return what there is of a run now."""
    found = Shown(sha256_json([*_marks(run)]))
    stages = [stage for stage in run.stages.values() if stage.state != "missing"]
    found.state["stages"] = [_progress(stage) for stage in stages]
    found.state["previews"], found.state["reconstructions"] = [], []
    for stage in stages:
        title = KINDS[stage.kind].title
        for folder, name in (("samples", "previews"), ("reconstructions", "reconstructions")):
            drawn = numbered(stage.path / folder)
            addresses = {seen: f"{stage.path.name}/{folder}/{path.name}" for seen, path in drawn.items()}
            found.pictures |= {addresses[seen]: path for seen, path in drawn.items()}
            own: dict[str, Any] = {"title": title, "pictures": [[seen, address] for seen, address in addresses.items()]}
            if drawn and folder == "reconstructions":
                own["cells"] = _layout(stage, next(iter(drawn.values())))
            if drawn and own.get("cells", True) is not None:
                found.state[name].append(own)
    found.state["condition"] = _condition(run)
    return found


def _progress(stage: StageRun) -> dict[str, Any]:
    """Return how far a stage is, its last numbers, and how long it will take at the speed that it had so far."""
    counts = progress_of(stage) if stage.state == "unfinished" else []
    last: dict[str, float] = {}
    for line in stage.lines:
        last.update({name: line[name] for name in (*_SHOWN, "images_per_second") if name in line})
    speed, took = last.pop("images_per_second", None), seconds(stage)
    words = [f"{name.replace('val_', 'validation ').replace('_', ' ')} {value:.4g}" for name, value in last.items()]
    words += [f"{rate(speed)} images/s"] if speed else []
    if speed and len(counts) == 2:
        words.append(f"{duration((counts[1] - counts[0]) / speed)} left")
    words += [duration(took)] if took and stage.complete else []
    title = KINDS[stage.kind].title
    return {"title": title, "state": stage.state, "counts": counts, "words": words}


def _layout(stage: StageRun, picture: Path) -> dict[str, int] | None:
    """Return where a picture of reconstructions has its images, by the size that the stage records of its data.

    None for a file that is not a picture of the stage: a link to elsewhere, a pipe, or a damaged one.
    """
    if not picture.resolve().is_relative_to(stage.path.resolve()) or not is_picture(picture):
        return None
    data = recorded_settings(stage.path).get("data")
    side = data.get("image_size") if isinstance(data, dict) and not data.get("image_width") else None
    try:
        return cells(picture, side) if isinstance(side, int) and side > 0 else None
    except (OSError, Image.DecompressionBombError):
        return None


def _condition(run: Summary) -> dict[str, Any]:
    """Return what a drawing can be asked for: a class of these, a prompt or nothing; null without a generator."""
    if run.generator.state == "missing":
        return {"kind": None}
    conditioning = _conditioning(run)
    described = conditioning.describe()
    return {"kind": str(described.get("kind")), "names": list(described.get("class_names") or [])}


def _conditioning(run: Summary) -> Conditioning:
    stages = (run.generator, *run.stages.values())
    recorded = [stage.metadata for stage in stages if stage.metadata.keys() & {"conditioning", "class_names"}]
    try:
        return conditioning_of(recorded[0]) if recorded else NoConditioning()
    except DataError:
        return NoConditioning()


def _marks(run: Summary) -> Iterator[list[Any]]:
    """Yield what changes when the report of a run would: its files' names, sizes and times."""
    for folder in sorted({*run.root.glob("*"), *run.root.glob("*/*")}):
        for path in (folder / "metrics.jsonl", folder / "manifest.json"):
            if path.is_file():
                status = path.stat()
                yield [path.relative_to(run.root).as_posix(), status.st_size, status.st_mtime_ns]
