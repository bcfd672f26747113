"""What the numbers of a run say to do next: trained too briefly or too long, read wrongly, learned by heart."""

import shlex
from collections.abc import Iterator, Sequence

from ....core.features.classifier import WEAK
from ....core.latents.fields import CROPS, LATENT, MASK
from ....core.runs.inputs import input_path
from ....core.runs.outputs import command_line
from ....core.runs.roles import DENOISER
from ....core.runs.run import RECIPE, StageRun
from ....core.settings.fields import Run
from ...table import KINDS, MAKERS
from ..summary import Evaluation, Summary
from .page import Gap

Curve = Sequence[tuple[float, float]]

_FEWEST_POINTS = 4  # of a curve that has a trend
_STILL = 0.98  # A loss that is below this share of what it was before the last quarter is still falling.
_AGAIN = 1.05  # One that is above this share of its least has risen again.
_DECIBELS = 0.2
_FEW_OF_A_CLASS = 100
_COPIES = 0.5


def advice(config: Run, run: Summary) -> Iterator[Gap]:
    """Yield what the numbers advise, with the command where there is one."""
    for stage in run.stages.values():
        if stage.complete:
            yield from _of_training(config, stage, run)
    yield from _of_data(run)
    yield from _of_classifier(config, run)
    for each in filter(lambda each: each.of_samples, run.evaluations):
        yield from _of_classes(each)
        yield from _of_copies(each)


def still_falling(curve: Curve) -> bool:
    """Whether a loss over images, (images, value) in order, still fell in the last quarter, to its least."""
    if len(curve) < _FEWEST_POINTS:
        return False
    before = [value for images, value in curve if images <= 0.75 * curve[-1][0]]
    return bool(before) and curve[-1][1] < _STILL * min(before)


def risen_since(curve: Curve) -> float | None:
    """Return after how many images a loss was least, if it has clearly risen since; None if it has not."""
    if len(curve) < _FEWEST_POINTS:
        return None
    at, least = min(curve, key=lambda point: point[1])
    later = [value for images, value in curve if images > at]
    return at if len(later) > 1 and min(later[-2:]) > _AGAIN * least else None


def _of_training(config: Run, stage: StageRun, run: Summary) -> Iterator[Gap]:
    title, losses, decibels = KINDS[stage.kind].title, stage.curve("val_loss"), stage.curve("val_psnr")
    longer = _longer(config, stage)
    if still_falling(losses):
        yield Gap(f"{title}: the validation loss still fell at the end of its training. Train longer.", longer)
    elif (images := risen_since(losses)) is not None:
        least, instead = "at the start", "a lower learning rate"  # as where a trained network is trained on few images
        if images:
            least, instead = f"after {images:,.0f} images", f"train on {images:,.0f} images only"
        crops = _crops(config, stage, run)
        yield Gap(
            f"{title}: the validation loss was least {least} and has risen since: it learns its images by heart."
            f" Use more images,{' crops of them,' if crops else ''} a smaller network, or {instead}.",
            crops,
        )
    if _gained(decibels) > _DECIBELS:
        yield Gap(f"{title}: the PSNR of held-out images still rose at the end of its training. Train longer.", longer)
    train = stage.config.get("train")
    if KINDS[stage.kind].role.draws and isinstance(train, dict) and train.get("ema") == 0:
        yield Gap(f"{title}: trained without an EMA of its weights, with which samples are better: train.ema=0.999.")


def _gained(curve: Curve) -> float:
    """Return by how much a number rose over the last quarter."""
    before = [value for images, value in curve if images <= 0.75 * curve[-1][0]]
    return curve[-1][1] - max(before) if len(curve) >= _FEWEST_POINTS and before else 0.0


def _longer(config: Run, stage: StageRun) -> str:
    """Return the command that trains a stage longer: from its weights in a run of its own, a classifier anew."""
    recipe = shlex.join(["-c", str(stage.path / RECIPE)])
    if KINDS[stage.kind].beside:
        images = stage.metadata.get("images_seen", 0)
        return f"{command_line(MAKERS[stage.kind].name, config)} {recipe} --images {2 * images} --replace"
    elsewhere = config.model_copy(update={"name": f"{config.name}-longer"})
    latents = ["--latents", str(input_path(stage, "latents"))] if "latents" in stage.inputs else []
    start = shlex.join([*latents, "--start-from", str(stage.path)])
    return f"{command_line(MAKERS[stage.kind].name, elsewhere)} {recipe} {start}"


def _crops(config: Run, stage: StageRun, run: Summary) -> str:
    """Return the command that encodes crops in a run of its own; none where its training has or cannot have them."""
    latents = run.stages.get("latents")
    fields = latents.metadata.get("fields", {}) if latents is not None and "latents" in stage.inputs else {}
    is_denoiser = KINDS[stage.kind].role is DENOISER and not KINDS[stage.kind].beside
    if not is_denoiser or LATENT not in fields or CROPS in fields or MASK in fields:
        return ""
    elsewhere = config.model_copy(update={"name": f"{config.name}-crops"})
    flags = shlex.join(["--autoencoder", str(input_path(stage, "autoencoder")), "--crops", "4"])
    return f"{command_line('encode', elsewhere)} {flags}"


def _of_data(run: Summary) -> Iterator[Gap]:
    latents = run.stages["latents"].metadata
    counts, names = latents.get("class_counts"), latents.get("class_names")
    if not counts or not names:
        return
    few = [f"{name} {count:,}" for name, count in zip(names, counts, strict=False) if count < _FEW_OF_A_CLASS]
    if few:
        shown = ", ".join(few[:10]) + (f" and {len(few) - 10} more" if len(few) > 10 else "")
        yield Gap(
            f"Few images of a class: {shown}. Of so few a network learns the images themselves: add some, mirror them"
            " where left and right may be exchanged (data.flip), and look at the nearest neighbours of the samples."
        )


def _of_classifier(config: Run, run: Summary) -> Iterator[Gap]:
    classifier = run.stages["classifier"]
    accuracy = classifier.metadata.get("accuracy")
    if classifier.complete and isinstance(accuracy, float) and accuracy < WEAK:
        yield Gap(
            f"The classifier reads {accuracy:.1%} of held-out real images as their class: what it says of samples is"
            " inexact. Train it longer, and evaluate again.",
            _longer(config, classifier),
        )


def _of_classes(each: Evaluation) -> Iterator[Gap]:
    """Name the classes of which no sample is read as its own, apart by whether real images are."""
    classes = each.document.get("classes", {})
    never = [name for name, row in classes.items() if row["samples"]["accuracy"] == 0]
    known = [name for name in never if classes[name].get("held_out", {}).get("accuracy", 0) >= 0.5]
    unknown = [name for name in never if name not in known]
    if known:
        yield Gap(
            f"{each.title}: no sample of {', '.join(known)} is read as its class, though real images are. Train the"
            " denoiser longer or draw with more guidance, and look at these samples."
        )
    if unknown:
        yield Gap(
            f"{each.title}: no sample of {', '.join(unknown)} is read as its class, and few real images are, or none"
            " were held out: the classifier may not know it. See its row in the confusion matrix."
        )


def _of_copies(each: Evaluation) -> Iterator[Gap]:
    numbers, floors = each.numbers, each.floor
    for name, value in numbers.items():
        if name.startswith("nearest_ratio[") and name in floors and value < _COPIES * floors[name]:
            yield Gap(
                f"{each.title}: samples lie nearer to training images ({value:.2g}) than other real images do"
                f" ({floors[name]:.2g}): some may be copies. Train on more images, or for less long."
            )
