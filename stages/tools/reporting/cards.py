"""The diagram of a run's report: a card for each link of the chain from images to numbers, and for what stands beside.

A card says what its stage was made of, what came out, how long that took and how fast it went.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from ....core.images.sets import EXCLUDE
from ....core.pipeline.best import kept_best
from ....core.runs.roles import DENOISER
from ....core.runs.run import StageRun
from ...table import KINDS
from ..summary import Evaluated, changed, how, images_per_second, plain, seconds
from .page import Card

_LINES = 4
_NO_SETTINGS = ("samples", "label")  # of several folders of a kind: what each is of, and called
_OUTSIDE = ("data", "reference", EXCLUDE)  # inputs that are named as they were typed, all others from their own folder
_NUMBERS = {
    "images_seen": "{:,} images seen",
    "val_psnr": "PSNR {:.2f} dB held out",
    "val_ssim": "SSIM {:.3f} held out",
    "validation_loss": "validation loss {:.4f}",
}


def cards(stages: dict[str, StageRun], drawn: Sequence[StageRun], evaluated: Sequence[Evaluated]) -> Iterator[Card]:
    """Yield the links of the chain, those that are missing as well, then what stands beside it."""
    beside = [stage for stage in stages.values() if KINDS[stage.kind].beside]
    yield from (_of_stage(stage) for stage in stages.values() if stage not in beside)
    yield _of_samples(drawn)
    yield _of_numbers(evaluated)
    yield from (_of_stage(stage) for stage in beside if stage.state != "missing")


def _of_stage(stage: StageRun) -> Card:
    metadata = stage.metadata
    lines = [*_inputs([stage]), *(text.format(metadata[name]) for name, text in _NUMBERS.items() if name in metadata)]
    if "latent_shape" in metadata:
        lines.append("latents " + " × ".join(map(str, metadata["latent_shape"])))
    if isinstance(metadata.get("accuracy"), float):
        lines.append(f"accuracy {metadata['accuracy']:.1%} held out")
    if "samples" in metadata:
        lines.append(f"{metadata['samples']['train']:,} for training, {metadata['samples']['val']:,} held out")
    best = kept_best(stage.path) if KINDS[stage.kind].role is DENOISER else None
    if best is not None:
        number = f"{plain(best['criterion'])} {best['value']:.4g}"
        lines.append(f"best after {best['images_seen']:,} images: {number}")
    lines += _pace(seconds(stage), images_per_second(stage))
    return Card(KINDS[stage.kind].title, stage.state, lines, changed(stage), KINDS[stage.kind].beside)


def _of_samples(drawn: Sequence[StageRun]) -> Card:
    if not drawn:
        return Card("Samples", "missing")
    count = sum(len(one.metadata["images"]) for one in drawn)
    measured = [(len(one.metadata["images"]), images_per_second(one)) for one in drawn if seconds(one)]
    speeds = [(number, speed) for number, speed in measured if speed]
    took = sum(number / speed for number, speed in speeds)
    lines = [
        *_inputs(drawn),
        f"{count:,} images" + (f" in {len(drawn):,} sets" if len(drawn) > 1 else ""),
        *_shortened([*dict.fromkeys(how(one.metadata["sampling"]) for one in drawn)]),
        *_pace(_total(drawn), sum(number for number, _ in speeds) / took if took else None),
    ]
    return Card("Samples", "complete", lines, _settings_of(drawn))


def _of_numbers(evaluated: Sequence[Evaluated]) -> Card:
    if not evaluated:
        return Card("Numbers", "missing")
    made = [folder for folder, _ in evaluated]
    shown = _shortened([_headline(folder, document) for folder, document in evaluated])
    lines = [*_inputs(made), *shown, *_pace(_total(made), None)]
    return Card("Numbers", "complete", lines, _settings_of(made))


def _inputs(made: Sequence[StageRun]) -> Iterator[str]:
    """Say what one folder, or several of a kind, were made of: where few, by their places."""
    places: dict[str, dict[str, None]] = {}
    for folder in made:
        for role, entry in folder.inputs.items():
            path = entry["path"] if role in _OUTSIDE else _from_above(entry["path"])
            places.setdefault(role, {})[path] = None
    for role, paths in places.items():
        yield f"from {role} " + (", ".join(paths) if len(paths) <= 2 else f"of {len(paths)} folders")


def _from_above(path: str) -> str:
    """Leave out the way up: `../../dit` is `dit` for a reader of the whole run."""
    parts = path.split("/")
    return "/".join(parts[next((i for i, part in enumerate(parts) if part != ".."), 0) :])


def _settings_of(several: Sequence[StageRun]) -> dict[str, str]:
    """Return settings that differ from the defaults in some of the folders, each with all its values."""
    values: dict[str, dict[str, None]] = {}
    for folder in several:
        for key, value in changed(folder).items():
            if key not in _NO_SETTINGS:
                values.setdefault(key, {})[value] = None
    return {key: " | ".join(_shortened([*each])) for key, each in sorted(values.items())}


def _headline(folder: StageRun, document: dict[str, Any]) -> str:
    """Say what was evaluated, and its first number."""
    seen, numbers = document["conditions"], document["numbers"]
    of = how(seen["sampling"]) if "sampling" in seen else folder.path.name
    first = next(iter(numbers.items()), None)
    return of + (f": {plain(first[0])} {first[1]:.4g}" if first else "")


def _shortened(lines: Sequence[str]) -> list[str]:
    return [*lines[:_LINES], *([f"and {len(lines) - _LINES} more"] if len(lines) > _LINES else [])]


def _total(made: Sequence[StageRun]) -> float:
    return sum(seconds(one) or 0 for one in made)


def _pace(duration: float | None, speed: float | None) -> list[str]:
    """Say how long work took and how fast it was: whole numbers from ten on."""
    parts = [_duration(duration)] if duration else []
    parts += [f"{speed:,.0f} images/s" if speed >= 10 else f"{speed:.2g} images/s"] if speed else []
    return [", ".join(parts)] if parts else []


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 1 else f"{seconds:.1f} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
