"""The charts of a run's report: training over images seen, measurements along the way, evaluations over a setting."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ....core.figures import Line, Panel, level, line, svg
from ....core.files import sha256_json
from ....core.metrics.document import Conditions
from ....core.pipeline.best import kept_best
from ....core.runs.run import StageRun
from ....core.runs.schemas import first_wrong
from ....core.training.evaluator import CONDITIONS
from ..summary import Evaluated, conditions_in_words, how, plain
from .page import Picture

MEASURED = ("fid", "frechet_distance", "class_accuracy", "recall", "precision", "kid", "kernel_distance")
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


def training_curves(stage: StageRun, title: str) -> Iterator[Picture]:
    """Draw what a stage's metrics.jsonl has of the usual numbers, each kind over images seen."""
    for label, names in TRAINED.items():
        drawn = [name for name in names if stage.curve(name)]
        lines = [line(plain(name), stage.curve(name), colour) for colour, name in enumerate(drawn)]
        if any(x > 0 for each in lines for x in each.x):
            log = "y" if label in ("loss", "gradient norm") else ""
            yield Picture(f"{title}: {label}", svg=svg(Panel("", "images seen", label, lines, log=log)))


def measured_along_the_way(stage: StageRun) -> list[dict[str, Any]]:
    """Return the lines that measure samples of the network in training, those under the last conditions."""
    lines = [each for each in stage.lines if first_wrong(Conditions, each.get(CONDITIONS)) is None]
    return [each for each in lines if each[CONDITIONS] == lines[-1][CONDITIONS]]


def measurements(stage: StageRun) -> Iterator[Picture]:
    """Draw what was measured of samples in training, beside the same for real images."""
    lines = measured_along_the_way(stage)
    if not lines:
        return
    kept, conditions, extractor = kept_best(stage.path) or {}, conditions_in_words(lines[-1]), _extractor(lines[-1])
    floor = lines[-1].get("real_against_real")
    for name in (f"{number}[{extractor}]" for number in MEASURED):
        points = [(each["images"], each[name]) for each in lines if isinstance(each.get(name), (int, float))]
        if points:
            drawn = [line("samples", points, marked=True), *_of_reals(floor, name, [x for x, _ in points])]
            if name == kept.get("criterion"):
                drawn.append(line("kept as the best", [(kept["images_seen"], kept["value"])], len(drawn)))
            yield Picture(
                f"{_capital(plain(name))} of samples along the way: {conditions}",
                svg=svg(Panel("", "images seen", plain(name), drawn)),
            )
            conditions = "under the same conditions"


def against_settings(evaluated: Sequence[Evaluated], drawn: Sequence[StageRun]) -> Iterator[Picture]:
    """Draw each number over guidance scale, a line for each number of steps, and over steps, a line for each scale.

    Only samples that differ in nothing else are compared: not in sampler, denoiser, classes, seeds or reference.
    """
    known = {one.fingerprint: _drawn_from(one) for one in drawn}
    alike: dict[str, list[dict[str, Any]]] = {}
    for folder, document in evaluated:
        if "sampling" in document["conditions"]:
            others = {k: v for k, v in document["conditions"].items() if k != "n_floor"}
            others["sampling"] = _but_compared(others["sampling"])
            samples = folder.inputs.get("samples", {}).get("fingerprint", "")
            others["of"] = known.get(samples, samples)
            alike.setdefault(json.dumps(others, sort_keys=True), []).append(document)
    for group in alike.values():
        conditions = conditions_in_words(group[0], how(_but_compared(group[0]["conditions"]["sampling"])))
        for (over, label), (apart, _) in (_SETTINGS, _SETTINGS[::-1]):
            for number in MEASURED:
                name = f"{number}[{_extractor(group[0])}]"
                lines = [*_lines(group, over, apart, name)]
                if lines:
                    lines += _of_reals(group[0].get("real_against_real"), name, [x for each in lines for x in each.x])
                    caption = f"{_capital(plain(name))} over {label}: {conditions}"
                    yield Picture(caption, svg=svg(Panel("", label, plain(name), lines)))
                    conditions = "under the same conditions"


def _drawn_from(samples: StageRun) -> list[Any]:
    """Return which denoiser drew which classes from which seeds."""
    images = [[image["label"], image["seed"]] for image in samples.metadata["images"]]
    return [samples.inputs.get("denoiser", {}).get("fingerprint"), sha256_json(images)]


def _lines(group: Sequence[dict[str, Any]], over: str, apart: str, name: str) -> Iterator[Line]:
    """Yield a number over one setting, a line for each value of the other that has more than one point."""
    for colour, value in enumerate(sorted({document["conditions"]["sampling"][apart] for document in group})):
        of_value = [document for document in group if document["conditions"]["sampling"][apart] == value]
        points = {
            each["conditions"]["sampling"][over]: each["numbers"][name] for each in of_value if name in each["numbers"]
        }
        if len(points) > 1:
            label = f"cfg {value:g}" if apart == "cfg" else f"{value} steps"
            yield line(label, sorted(points.items()), colour, marked=True)


def _of_reals(floor: object, name: str, x: Sequence[float]) -> Iterator[Line]:
    """Yield what real images measure, as a line across the others."""
    value = floor.get(name) if isinstance(floor, dict) else None
    if isinstance(value, (int, float)):
        yield level("real images", value, x)


def _but_compared(sampling: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sampling.items() if name not in ("cfg", "steps")}


def _extractor(document: dict[str, Any]) -> str:
    return str(document[CONDITIONS].get("extractor", ""))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
