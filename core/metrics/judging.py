"""What both judgements of `ldm eval`, of samples and of reconstructions, are handed, and how they hand on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from .. import files
from ..errors import ConfigError, DataError
from ..features.extractor import Extractor
from ..features.registry import open_extractor
from ..images.dataset import ImageSource
from ..images.decode import as_tensor
from ..images.loader import ImageLoader
from ..images.order import spread
from ..images.sets import exclusion_of
from ..images.settings import Data
from ..images.sources import open_source, open_splits
from ..progress import Outcome, Progress
from ..runs.inputs import as_input, open_own
from ..runs.roles import CLASSIFIER
from ..runs.run import StageRun
from ..runs.schemas import Count, Number, Sampling, Text, absent, first_wrong
from ..system.precision import Policy
from .evaluate import Report
from .frechet import DESCRIPTION
from .settings import Comparison

NUMBERS = "metrics.json"


class Conditions(BaseModel):
    """What numbers depend on, as far as those who read it rely on it."""

    model_config = ConfigDict(strict=True)
    sampling: Sampling = absent()
    extractor: Text = ""
    weights_sha256: Text = ""
    resize: Text = ""
    of: Text = ""
    n_samples: Count = 0
    n_reference: Count = 0
    n_latents: Count = 0
    times_per_latent: Count = 0


class _Judgement(BaseModel):
    model_config = ConfigDict(strict=True)
    numbers: dict[Text, Number]
    real_against_real: dict[Text, Number] = {}
    conditions: Conditions


def read_judgement(folder: Path) -> dict[str, Any]:
    """Read a judgement's numbers and conditions. Raises DataError naming what in the file is not as it should be."""
    remedy = f"judge again: remove {folder}, then ldm eval"
    document = files.read_json(folder / NUMBERS, remedy)
    wrong = first_wrong(_Judgement, document)
    if wrong is not None:
        raise DataError(f"{folder / NUMBERS} is damaged: {wrong}", remedy)
    return document


def feature_extractor(config: Comparison, policy: Policy, folder: Path) -> tuple[Extractor, dict[str, Any]]:
    """Open the feature extractor, and describe it as an input of the judgement in a folder."""
    kind = "classifier" if config.features == "auto" else config.features
    if kind == "classifier" and config.weights is None:
        made = open_own(CLASSIFIER, config)
        made.verify()
        return open_extractor(kind, made.path / "final", policy.device), as_input(made, folder)
    extractor = open_extractor(kind, config.weights, policy.device, config.download)
    return extractor, {"path": str(config.weights or kind), "fingerprint": extractor.weights_sha256}


def saved_statistics(config: Comparison) -> Path | None:
    """Return the folder with saved statistics, if that is what the reference is."""
    path = Path(config.reference or "")
    return path if config.reference and (path / DESCRIPTION).is_file() else None


def reference_images(config: Comparison, data: Data, validation: bool = False) -> tuple[ImageSource, dict[str, Any]]:
    """Open the reference, what was named or the run's own images, and describe it as an input."""
    if config.reference is not None:
        source, path = open_source(config.reference), config.reference
    elif data.source is None:
        raise ConfigError("the run does not say which images it was trained on", "give --reference")
    else:
        try:
            splits = open_splits(data.source, data.validation, data.val_fraction, exclusion_of(data))
        except DataError as error:
            remedy = "run it where they lie as they were, or give --reference"
            raise DataError(f"the images of the run: {error.message}", remedy) from None
        source = splits[1 if validation else 0]
        path = f"{data.source} ({'validation' if validation else 'training'} images)"
    return source, {"path": path, "fingerprint": source.fingerprint()}


def limited(source: ImageSource, config: Comparison) -> ImageSource:
    """Return at most `limit` images, a choice by the seed, in their order; 0 is all of them."""
    if not config.limit or config.limit >= len(source):
        return source
    return source.subset(np.sort(spread(len(source), config.limit, config.seed)))


def batches(images: ImageLoader, config: Comparison, progress: Progress, title: str) -> Iterator[torch.Tensor]:
    """Yield all images, float32 (B, 3, H, W) in [-1, 1], and tell how far that is."""
    progress.start(title, len(images), "images")
    for indices, pixels in images.in_turn(config.batch_size):
        yield as_tensor(pixels)
        progress.update(int(indices[-1]) + 1)
    progress.finish()


def conclude(
    work: StageRun,
    of: str,
    report: Report,
    conditions: dict[str, Any],
    outputs: list[str],
    pictures: list[str],
    next_commands: list[str],
) -> Outcome:
    """Write the numbers beside their floor and conditions, and finish the judgement."""
    document = {
        "of": of,
        "numbers": report.numbers,
        "real_against_real": report.floor,
        "conditions": {**report.conditions, **conditions},
    }
    files.write_json(work.path / NUMBERS, document)
    work.commit([NUMBERS, *outputs, *pictures], {"numbers": report.numbers, "floor": report.floor})
    shown = [work.path / name for name in pictures]
    return Outcome(work.path, summary=_shown(document), pictures=shown, next_commands=next_commands)


def concluded(work: StageRun, next_commands: list[str]) -> Outcome:
    """Return the outcome of a judgement that was finished before."""
    shown = _shown(read_judgement(work.path))
    return Outcome(work.path, already_complete=True, summary=shown, next_commands=next_commands)


def _shown(document: dict[str, Any]) -> dict[str, str]:
    """Choose what the command prints: every number beside its floor, and how many images it rests on."""
    floor, conditions = document["real_against_real"], document["conditions"]
    rows = {
        name: f"{value:.4g}" + (f"   (real against real {floor[name]:.4g})" if name in floor else "")
        for name, value in document["numbers"].items()
        if "_std[" not in name
    }
    rows["images"] = f"{conditions['n_samples']:,} against {conditions['n_reference']:,}"
    return rows
