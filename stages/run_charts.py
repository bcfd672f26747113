"""The charts of a run's report: training over images seen, measurements along the way, judgements over a setting."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ..core.errors import DataError
from ..core.report.charts import Series, line_chart
from ..core.report.page import Picture
from ..core.training.gauge import CONDITIONS
from .best import open_best
from .story import Folder, Judged, how, plain, told_conditions

MEASURED = ("frechet_distance", "fid", "kernel_distance", "kid", "class_accuracy", "precision", "recall")
TRAINED = {
    "loss": ("loss", "val_loss"),
    "PSNR, dB": ("val_psnr",),
    "SSIM": ("val_ssim",),
    "codes in use, share": ("usage", "val_usage"),
    "perplexity of the codes": ("perplexity", "val_perplexity"),
    "accuracy": ("val_accuracy",),
    "gradient norm": ("grad_norm",),
}
_SETTINGS = (("cfg", "guidance scale"), ("steps", "steps"))


def training_curves(stage: Folder, title: str) -> Iterator[Picture]:
    """Draw what a stage's metrics.jsonl has of the usual numbers, each kind over images seen."""
    for label, names in TRAINED.items():
        series = [Series(plain(name), stage.curve(name)) for name in names if stage.curve(name)]
        if any(x > 0 for line in series for x, _ in line.points):
            svg = line_chart(series, "images seen", label, log=label in ("loss", "gradient norm"))
            yield Picture(f"{title}: {label}", svg=svg)


def measurements(stage: Folder) -> Iterator[Picture]:
    """Draw what was measured of samples in training, under the last conditions, beside the same for real images."""
    lines = [line for line in stage.lines if CONDITIONS in line]
    lines = [line for line in lines if line[CONDITIONS] == lines[-1][CONDITIONS]]
    if not lines:
        return
    kept, conditions = _best(stage) or {}, told_conditions(lines[-1])
    floor, extractor = lines[-1].get("real_against_real", {}), lines[-1][CONDITIONS]["extractor"]
    for name in (f"{number}[{extractor}]" for number in MEASURED):
        points = [(line["images"], line[name]) for line in lines if name in line]
        if points:
            series = [Series("samples", points, dots=True), *_of_reals(floor.get(name), points)]
            if name == kept.get("criterion"):
                series.append(Series("kept as the best", [(kept["images_seen"], kept["value"])]))
            caption = f"{_capital(plain(name))} of samples along the way: {conditions}"
            conditions = "as before"
            yield Picture(caption, svg=line_chart(series, "images seen", plain(name)))


def _of_reals(floor: float | None, points: Sequence[tuple[float, float]]) -> Iterator[Series]:
    """Draw what real images measure as a line across the points."""
    if floor is not None:
        ends = [x for x, _ in points]
        yield Series("real images", [(min(ends), floor), (max(ends), floor)], dashed=True)


def best_state(stage: Folder) -> str | None:
    """Say which state of a denoiser measured best, in a few words; None where none was kept."""
    found = _best(stage)
    if found is None:
        return None
    return f"best after {found['images_seen']:,} images: {plain(found['criterion'])} {found['value']:.4g}"


def _best(stage: Folder) -> dict[str, Any] | None:
    try:
        return dict(open_best(stage.path, "").facts["best"])
    except DataError:
        return None


def against_settings(judged: Sequence[Judged], drawn: Sequence[Folder]) -> Iterator[Picture]:
    """Draw each number over guidance scale, a line for each number of steps, and over steps, a line for each scale.

    Only samples that differ in nothing else are compared: not in sampler, denoiser, reference or number.
    """
    denoisers = {
        one.artifact.fingerprint: one.artifact.manifest["inputs"]["denoiser"]["fingerprint"]
        for one in drawn
        if one.artifact is not None
    }
    alike: dict[str, list[Judged]] = {}
    for folder, document in judged:
        if "sampling" in document["conditions"] and folder.artifact is not None:
            others = {k: v for k, v in document["conditions"].items() if k != "n_floor"}
            others["sampling"] = {k: v for k, v in others["sampling"].items() if k not in ("cfg", "steps")}
            others["denoiser"] = denoisers.get(folder.artifact.manifest["inputs"]["samples"]["fingerprint"])
            alike.setdefault(json.dumps(others, sort_keys=True), []).append((folder, document))
    for group in alike.values():
        documents = [document for _, document in group]
        for (over, label), (apart, _) in (_SETTINGS, _SETTINGS[::-1]):
            for number in MEASURED:
                yield from _against(
                    documents, over, label, apart, f"{number}[{documents[0]['conditions']['extractor']}]"
                )


def _against(group: Sequence[dict[str, Any]], over: str, label: str, apart: str, name: str) -> Iterator[Picture]:
    series = []
    for value in sorted({document["conditions"]["sampling"][apart] for document in group}):
        line = [document for document in group if document["conditions"]["sampling"][apart] == value]
        points = sorted(
            (each["conditions"]["sampling"][over], each["numbers"][name]) for each in line if name in each["numbers"]
        )
        if len(points) > 1:
            series.append(Series(f"cfg {value:g}" if apart == "cfg" else f"{value} steps", points, dots=True))
    if not series:
        return
    floor = group[0].get("real_against_real", {}).get(name)
    series += _of_reals(floor, [point for line in series for point in line.points])
    fixed = {k: v for k, v in group[0]["conditions"]["sampling"].items() if k not in ("cfg", "steps")}
    caption = f"{_capital(plain(name))} over {label}: {how(fixed)}, {group[0]['conditions']['extractor']} features"
    yield Picture(caption, svg=line_chart(series, label, plain(name)))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
