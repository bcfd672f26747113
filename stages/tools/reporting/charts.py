"""The charts of a run's report: training over images seen, measurements along the way, evaluations over a setting."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ....core.figures import Line, Panel, level, line, svg
from ....core.files import sha256_json
from ....core.metrics.document import Conditions
from ....core.pipeline.kept import kept_best
from ....core.runs.metrics_log import CONDITIONS
from ....core.runs.roles import generators
from ....core.runs.run import StageRun
from ....core.runs.schemas import first_wrong
from ..summary import Evaluation, Summary, grouped
from ..words import conditions_in_words, plain
from .page import Picture

MEASURED = ("fid", "frechet_distance", "class_accuracy", "recall", "precision", "kid", "kernel_distance")
POSTERIOR = ("val_kl_divergence", "val_mu_std", "val_sigma")
TRAINED = {
    "loss": ("loss", "val_loss"),
    "PSNR, dB": ("val_psnr",),
    "SSIM": ("val_ssim",),
    "pixel loss": ("pixel_loss",),
    "LPIPS": ("lpips",),
    "KL divergence, nats per latent value": ("kl_divergence", "val_kl_divergence"),
    "deviations of the posterior": ("val_mu_std", "val_sigma"),
    "adversarial losses": ("adversarial_loss", "discriminator_loss"),
    "adaptive weight": ("adaptive_weight",),
    "codes in use, share": ("usage", "val_usage"),
    "perplexity of the codes": ("perplexity", "val_perplexity"),
    "accuracy": ("val_accuracy",),
    "gradient norm": ("grad_norm",),
}
BY_SCALE = {"val_psnr": "PSNR after each scale, dB", "val_usage": "codes in use at each scale, share"}
BY_SCALE |= {"val_loss": "loss of each scale, nats a token"}
LOGARITHMIC = ("loss", "pixel loss", "LPIPS", "KL divergence, nats per latent value", "gradient norm")
SETTINGS = {"cfg": ("guidance scale", "cfg {:g}"), "steps": ("steps", "{} steps")}


def training_curves(stage: StageRun, title: str) -> Iterator[Picture]:
    """Draw what a stage's metrics.jsonl has of the usual numbers, each kind over images seen."""
    for label, names in TRAINED.items():
        drawn = [name for name in names if stage.curve(name)]
        lines = [line(plain(name), stage.curve(name), colour) for colour, name in enumerate(drawn)]
        if any(x > 0 for each in lines for x in each.x):
            log = "y" if label in LOGARITHMIC else ""
            yield Picture(f"{title}: {label}", svg=svg(Panel("", "images seen", label, lines, log=log)))


def scale_curves(stage: StageRun, title: str) -> Iterator[Picture]:
    """Draw the numbers that a stage's metrics.jsonl has of each scale, named by its side, over images seen."""
    known = dict.fromkeys(name for each in stage.lines for name in each)
    for kind, label in BY_SCALE.items():
        sides = sorted(int(name.removeprefix(f"{kind}_")) for name in known if re.fullmatch(rf"{kind}_\d+", name))
        lines = [line(f"{side} x {side}", stage.curve(f"{kind}_{side}"), colour) for colour, side in enumerate(sides)]
        if any(x > 0 for each in lines for x in each.x):
            yield Picture(f"{title}: {label}", svg=svg(Panel("", "images seen", label, lines)))


def measured_along_the_way(stage: StageRun) -> list[dict[str, Any]]:
    """Return the lines that measure samples of the network in training, those under the last conditions."""
    lines = [each for each in stage.lines if first_wrong(Conditions, each.get(CONDITIONS)) is None]
    return [each for each in lines if each[CONDITIONS] == lines[-1][CONDITIONS]]


def measurements(stage: StageRun) -> Iterator[Picture]:
    """Draw what was measured of samples in training, beside the same for real images."""
    lines = measured_along_the_way(stage)
    if not lines:
        return
    kept, seen, floor = kept_best(stage.path) or {}, lines[-1][CONDITIONS], lines[-1].get("real_against_real")
    conditions = conditions_in_words(seen)
    for name in measured_numbers(seen):
        points = [(each["images"], each[name]) for each in lines if isinstance(each.get(name), (int, float))]
        if points:
            drawn = [line("samples", points, marked=True)]
            drawn += of_reals(floor, name, drawn)
            if name == kept.get("criterion"):
                drawn.append(line("kept as the best", [(kept["images_seen"], kept["value"])], len(drawn)))
            yield Picture(
                f"{_capital(plain(name))} of samples along the way: {conditions}",
                svg=svg(Panel("", "images seen", plain(name), drawn)),
            )
            conditions = "under the same conditions"


def against_settings(run: Summary) -> Iterator[Picture]:
    """Draw each number over guidance scale, a line for each number of steps, and over steps, one for each scale.

    Only samples that differ in nothing else are compared: not in sampler, denoiser, classes, seeds or reference.
    """
    drawn_from = {one.fingerprint: _drawn_from(one) for one in run.samples}

    def but_compared(each: Evaluation) -> dict[str, Any]:
        samples = each.run.inputs.get("samples", {}).get("fingerprint", "")
        return {**_but_compared(each), "n_floor": None, "of": drawn_from.get(samples, samples)}

    for group in grouped((each for each in run.evaluations if each.sampling), but_compared):
        rows = [{**each.numbers, **{name: (each.sampling or {})[name] for name in SETTINGS}} for each in group]
        conditions = conditions_in_words(_but_compared(group[0]))
        for over, (label, _) in SETTINGS.items():
            for name in measured_numbers(group[0].conditions):
                if lines := over_setting(rows, over, name, group[0].floor, fewest=2):
                    caption = f"{_capital(plain(name))} over {label}: {conditions}"
                    yield Picture(caption, svg=svg(Panel("", label, plain(name), lines)))
                    conditions = "under the same conditions"


def over_setting(
    rows: Sequence[Mapping[str, Any]], over: str, name: str, floor: Mapping[str, float], fewest: int = 1
) -> list[Line]:
    """Draw a number over one of `SETTINGS`, a line for each value of the other, and what real images measure.

    rows: settings and numbers, and perhaps `by`, what drew them, which lines are of one of. fewest: points that a line
    has at least.
    """
    (apart,) = SETTINGS.keys() - {over}
    lines = []
    for colour, (by, value) in enumerate(sorted({(row.get("by", ""), row[apart]) for row in rows})):
        of_line = [row for row in rows if (row.get("by", ""), row[apart]) == (by, value)]
        points = {row[over]: row[name] for row in of_line if name in row}
        if len(points) >= fewest:
            label = ", ".join(filter(None, (by, SETTINGS[apart][1].format(value))))
            lines.append(line(label, sorted(points.items()), colour, marked=True))
    return [*lines, *of_reals(floor, name, lines)]


def _drawn_from(samples: StageRun) -> list[Any]:
    """Return what drew which conditions from which seeds."""
    images = [{**image, "file": None} for image in samples.metadata["images"]]
    drawn_from = [samples.inputs[role.name]["fingerprint"] for role in generators() if role.name in samples.inputs]
    return [*drawn_from, sha256_json(images)]


def of_reals(floor: object, name: str, lines: Sequence[Line]) -> list[Line]:
    """Draw what real images measure, as a line across the others, where there are any."""
    value = floor.get(name) if isinstance(floor, dict) else None
    across = [x for each in lines for x in each.x]
    return [level("real images", value, across)] if across and isinstance(value, (int, float)) else []


def _but_compared(evaluation: Evaluation) -> dict[str, Any]:
    """Return the conditions of an evaluation without the settings that are compared."""
    sampling = {name: value for name, value in (evaluation.sampling or {}).items() if name not in SETTINGS}
    return {**evaluation.conditions, "sampling": sampling}


def measured_numbers(conditions: Mapping[str, Any]) -> list[str]:
    """Return the names of the numbers of samples that are drawn, in the features of an evaluation."""
    return [f"{number}[{conditions.get('extractor', '')}]" for number in MEASURED]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
