"""The diagram of a run's report: a card for each link of the chain from images to numbers, and for what stands beside.

A card says what its stage was made of, what came out, how long that took and how fast it went.
"""

import re
from collections.abc import Iterator, Sequence

from ....core.images.sets import EXCLUDE
from ....core.pipeline.kept import kept_best
from ....core.progress import duration, number_of
from ....core.runs.run import StageRun
from ...table import KINDS
from ..summary import Evaluation, Summary, changed, images_per_second, progress_of, seconds
from ..words import how, plain, rate, sides
from .page import Card

_LINES = 4
_NO_SETTINGS = ("samples", "label")  # of several folders of a kind: what each is of, and called
_OUTSIDE = ("data", "reference", EXCLUDE)  # inputs that are named as they were typed, all others from their own folder
_UP = re.compile(r"^(\.\./)+")  # `../../dit` is `dit` for a reader of the whole run.
_NUMBERS = {
    "images_seen": "{:,} images seen",
    "val_psnr": "PSNR {:.2f} dB held out",
    "val_ssim": "SSIM {:.3f} held out",
    "validation_loss": "validation loss {:.4f}",
}


def cards(run: Summary) -> Iterator[Card]:
    """Yield the links of the chain, those that are missing as well, then what stands beside it.

    Of several kinds of generators a run needs one.
    """
    beside = [stage for stage in run.stages.values() if KINDS[stage.kind].beside]
    chain = [stage for stage in run.stages.values() if stage not in beside]
    draw = [stage for stage in chain if KINDS[stage.kind].role.draws]
    there = [stage for stage in draw if stage.state != "missing"] or draw[:1]
    yield from (_of_stage(stage, f"Phase {stage.path.name} of the autoencoder") for stage in run.phases)
    yield from (_of_stage(stage) for stage in chain if stage not in draw or stage in there)
    yield _of_samples(run.samples)
    yield _of_numbers(run.evaluations)
    yield from (_of_stage(stage) for stage in beside if stage.state != "missing")


def _of_stage(stage: StageRun, title: str = "") -> Card:
    metadata = stage.metadata
    lines = [*_inputs([stage]), *(text.format(metadata[name]) for name, text in _NUMBERS.items() if name in metadata)]
    if stage.state == "unfinished" and (counts := progress_of(stage)):
        lines.append(f"{' of '.join(f'{count:,}' for count in counts)} images")
    if "latent_shape" in metadata:
        lines.append(f"latents {sides(metadata['latent_shape'])}")
    if isinstance(metadata.get("accuracy"), float):
        lines.append(f"accuracy {metadata['accuracy']:.1%} held out")
    if "samples" in metadata:
        lines.append(f"{metadata['samples']['train']:,} for training, {metadata['samples']['val']:,} held out")
    best = kept_best(stage.path) if KINDS[stage.kind].role.draws else None
    if best is not None:
        number = f"{plain(best['criterion'])} {best['value']:.4g}"
        lines.append(f"best after {best['images_seen']:,} images: {number}")
    lines += _pace(seconds(stage), images_per_second(stage))
    return Card(title or KINDS[stage.kind].title, stage.state, lines, changed(stage), KINDS[stage.kind].beside)


def _of_samples(drawn: Sequence[StageRun]) -> Card:
    if not drawn:
        return Card("Samples", "missing")
    count = sum(len(one.metadata["images"]) for one in drawn)
    measured = [(len(one.metadata["images"]), images_per_second(one)) for one in drawn if seconds(one)]
    speeds = [(number, speed) for number, speed in measured if speed]
    took = sum(number / speed for number, speed in speeds)
    lines = [
        *_inputs(drawn),
        number_of(count, "image") + (f" in {len(drawn):,} sets" if len(drawn) > 1 else ""),
        *_shortened([*dict.fromkeys(how(one.metadata["sampling"]) for one in drawn)]),
        *_pace(_total(drawn), sum(number for number, _ in speeds) / took if took else None),
    ]
    return Card("Samples", "complete", lines, _settings_of(drawn))


def _of_numbers(evaluations: Sequence[Evaluation]) -> Card:
    if not evaluations:
        return Card("Numbers", "missing")
    made = [each.run for each in evaluations]
    firsts = [(each.title, *item) for each in evaluations for item in [*each.numbers.items()][:1]]
    shown = _shortened([f"{title}: {plain(name)} {value:.4g}" for title, name, value in firsts])
    return Card("Numbers", "complete", [*_inputs(made), *shown, *_pace(_total(made), None)], _settings_of(made))


def _inputs(made: Sequence[StageRun]) -> Iterator[str]:
    """Say what one folder, or several of a kind, were made of: where few, by their places."""
    places: dict[str, dict[str, None]] = {}
    for folder in made:
        for role, entry in folder.inputs.items():
            path = entry["path"] if role in _OUTSIDE else _UP.sub("", entry["path"])
            places.setdefault(role, {})[path] = None
    for role, paths in places.items():
        yield f"from {role} " + (", ".join(paths) if len(paths) <= 2 else f"of {len(paths)} folders")


def _settings_of(several: Sequence[StageRun]) -> dict[str, str]:
    """Return settings that differ from the defaults in some of the folders, each with all its values."""
    values: dict[str, dict[str, None]] = {}
    for folder in several:
        for key, value in changed(folder).items():
            if key not in _NO_SETTINGS:
                values.setdefault(key, {})[value] = None
    return {key: " | ".join(_shortened([*each])) for key, each in sorted(values.items())}


def _shortened(lines: Sequence[str]) -> list[str]:
    return [*lines[:_LINES], *([f"and {len(lines) - _LINES} more"] if len(lines) > _LINES else [])]


def _total(made: Sequence[StageRun]) -> float:
    return sum(seconds(one) or 0 for one in made)


def _pace(took: float | None, speed: float | None) -> list[str]:
    """Say how long work took and how fast it was."""
    parts = [*([duration(took)] if took is not None else []), *([f"{rate(speed)} images/s"] if speed else [])]
    return [", ".join(parts)] if parts else []
