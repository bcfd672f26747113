"""Inputs of an evaluation: the feature extractor, the reference images, and batches of images."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ConfigError, DataError
from ..features.extractor import Extractor
from ..features.registry import open_extractor
from ..files import sha256_json
from ..images.dataset import ImageSource
from ..images.decode import as_tensor
from ..images.loader import ImageLoader
from ..images.order import spread
from ..images.sets import data_of, exclusion_of, warn_of_change
from ..images.settings import Data
from ..images.sources import open_source, open_splits
from ..progress import Progress
from ..runs.commands import command_of
from ..runs.inputs import as_input, open_own, own_folders
from ..runs.roles import AUTOENCODER, CLASSIFIER, EVALUATION
from ..runs.run import StageRun, kind_of, open_run
from ..settings.fields import identity
from ..system.precision import Policy
from .evaluate import class_columns
from .frechet import DESCRIPTION, TENSORS
from .settings import Comparison


def feature_extractor(config: Comparison, policy: Policy, folder: Path) -> tuple[Extractor, dict[str, Any]]:
    """Open the feature extractor, and describe it as an input of the evaluation in a folder."""
    kind = "classifier" if config.features == "auto" else config.features
    if kind == "classifier" and config.weights is None:
        _require_classes(config)
        classifier = open_own(CLASSIFIER, config)
        classifier.verify()
        return open_extractor(kind, classifier.path / "final", policy.device), as_input(classifier, folder)
    extractor = open_extractor(kind, config.weights, policy.device, config.download)
    return extractor, {"path": str(config.weights or kind), "fingerprint": extractor.weights_sha256}


def _require_classes(config: Comparison) -> None:
    """Refuse a run of one class, for which there is no classifier, with the features that do without."""
    if own_folders(CLASSIFIER, config.root):
        return
    for folder in own_folders(AUTOENCODER, config.root):
        names = open_run(folder, AUTOENCODER, command_of(folder, AUTOENCODER)).metadata["class_names"]
        if len(names) == 1:
            others = "`features=inception` `weights=FILE`, or `features=mobilenet-v2`"
            raise DataError(f"{config.root} has one class, and so no classifier to measure in", f"give {others}")


def saved_statistics(config: Comparison) -> Path | None:
    """Return the folder of the reference's saved statistics; None where the reference is images."""
    path = Path(config.reference or "")
    if not config.reference or not (path / DESCRIPTION).is_file():
        return None
    if kind_of(path) in EVALUATION.makers:  # of a reference that an evaluation was made against
        open_run(path, EVALUATION, command_of(path, EVALUATION)).verify(DESCRIPTION, TENSORS)
    return path


def reference_images(
    config: Comparison, made: StageRun, progress: Progress, validation: bool = False
) -> tuple[ImageSource, dict[str, Any]]:
    """Open the reference images, those named or the run's own, and describe them as an input.

    made: the stage of the run that read its images. Warns where they are others now.
    """
    data = data_of(made)
    if config.reference is not None:
        source, path = open_source(config.reference), config.reference
    elif data.source is None:
        raise ConfigError("the run does not say which images it was trained on", "give `reference`")
    else:
        try:
            splits = open_splits(data.source, data.validation, data.val_fraction, exclusion_of(data), data.masks)
        except DataError as error:
            remedy = "run it where they are unchanged, or give `reference`"
            raise DataError(f"the images of the run: {error.message}", remedy) from None
        now = sha256_json([part.fingerprint() for part in splits])
        warn_of_change({"path": data.source, "fingerprint": now}, made, progress)
        source = splits[1 if validation else 0]
        path = f"{data.source} ({'validation' if validation else 'training'} images)"
    return source, {"path": path, "fingerprint": source.fingerprint()}


def held_out_images(config: Comparison, made: StageRun, progress: Progress) -> ImageSource | None:
    """Open the images of a run that no stage trained on; None, with a note, where they are not there any more."""
    data = data_of(made)
    if data.source is None:
        return None
    try:
        held_out = open_splits(data.source, data.validation, data.val_fraction, exclusion_of(data), data.masks)[1]
    except DataError as error:
        progress.note(f"no numbers of held-out images: {error.message}")
        return None
    return limited(held_out, config) if held_out.labelled and len(held_out) else None


def described_features(
    extractor: Extractor, reference: dict[str, Any], config: Comparison, data: Data
) -> dict[str, Any]:
    """Return what the features of a reference depend on, JSON: they are equal where it is."""
    return {
        **{name: getattr(extractor, name) for name in ("name", "weights_sha256", "resize")},
        "reference": reference["fingerprint"],
        "limit": config.limit,
        "seed": config.seed,
        "data": {name: value for name, value in identity(data).items() if name != "source"},
    }


def known_classes(class_names: Sequence[str], extractor: Extractor, progress: Progress) -> list[int] | None:
    """Return the extractor's index of each class; None, with a warning, where it does not know them."""
    if extractor.class_names is None:
        return None
    try:
        return class_columns(class_names, extractor.class_names)
    except ConfigError as error:
        progress.warn(f"no class accuracy: {error.message}")
        return None


def known_labels(
    asked: Sequence[Sequence[str]], extractor: Extractor, progress: Progress
) -> tuple[tuple[str, ...], np.ndarray, list[int]] | None:
    """Return the labels that the extractor has as classes, the one of each image, int64 (N,), and their indices there.

    asked: the labels that each image is to have. Its classes exclude each other, so an image that is to have several of
    them, or none, cannot be checked: it has -1. None, with a warning, where no image can.
    """
    if extractor.class_names is None:
        return None
    columns: dict[str, int] = {}
    for label in sorted({label for labels in asked for label in labels}):
        with suppress(ConfigError):  # a label that is not one of its classes
            (columns[label],) = class_columns([label], extractor.class_names)
    names = tuple(columns)

    def row(labels: Sequence[str]) -> int:
        known = [names.index(label) for label in labels if label in columns]
        return known[0] if len(known) == 1 else -1

    rows = np.array([row(labels) for labels in asked], dtype=np.int64)
    if rows.max() < 0:
        few = f"{', '.join(extractor.class_names[:3])}{' …' if len(extractor.class_names) > 3 else ''}"
        progress.warn(
            f"no class accuracy: no sample was asked for exactly one of the classes of the {extractor.name} ({few});"
            " only labels that are also names of class folders can be checked"
        )
        return None
    return names, rows, list(columns.values())


def limited(source: ImageSource, config: Comparison) -> ImageSource:
    """Return `limit` images drawn by the seed, in their order; all of them where there are fewer, or limit is 0."""
    if not config.limit or config.limit >= len(source):
        return source
    return source.subset(np.sort(spread(len(source), config.limit, config.seed)))


def image_batches(images: ImageLoader, config: Comparison, progress: Progress, title: str) -> Iterator[torch.Tensor]:
    """Yield all images, float32 (B, 3, H, W) in [-1, 1], and show the progress."""
    progress.start(title, len(images), "images")
    for indices, pixels in images.in_turn(config.batch_size):
        yield as_tensor(pixels)
        progress.update(int(indices[-1]) + 1)
    progress.finish()
