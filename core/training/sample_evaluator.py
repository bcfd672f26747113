"""Evaluation of a generator in training by its samples: drawn as by `ldm sample`, compared as by `ldm eval`.

Wrong settings are refused before any work, the reference's features are computed once, and the best state is saved
as a folder of the same kind, which can be used wherever the generator is.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import files
from ..diffusion import conditions
from ..distributed import processes
from ..errors import ConfigError, DataError
from ..features.classifier import warn_if_weak
from ..features.extractor import INCEPTION, Features, extract
from ..features.reference import keep_features, kept_features
from ..images.dataset import ImageSource
from ..images.decode import as_tensor
from ..images.sets import data_of, image_loader
from ..metrics import evaluate
from ..metrics.inputs import (
    described_features,
    feature_extractor,
    image_batches,
    known_classes,
    known_labels,
    limited,
    reference_images,
)
from ..metrics.settings import Comparison
from ..pipeline.generator import Generator, Look
from ..pipeline.kept import KeptState
from ..pipeline.training_data import TrainingData
from ..progress import Progress
from ..runs.schemas import size_recorded
from ..settings.fields import Stage
from ..system.precision import Policy
from ..system.signals import StopFlag, stop_flag
from .settings import Metrics

REFERENCE = "metrics"  # folder in the denoiser's that holds the reference's features
MANIFOLD_IMAGES = 2_000  # of each side, for the numbers whose cost grows with the square


class SampleEvaluator:
    """Draws samples of the network in training and compares them with reference images: an `Evaluator`.

    Construction raises ConfigError and DataError for what cannot be evaluated; `start` does the first work.
    wanted: the settings of the evaluation. data: what the generator is trained on. sampling: how it draws, as `Opened`
    records it.
    """

    def __init__(
        self,
        config: Stage,
        wanted: Metrics,
        data: TrainingData,
        sampling: Mapping[str, Any],
        policy: Policy,
        progress: Progress,
    ) -> None:
        self.wanted, self.sampling, self.policy, self.progress = wanted, sampling, policy, progress
        class_names = data.conditioning.class_names
        self.data = data_of(data.described)
        shared = {name: getattr(wanted, name) for name in ("features", "weights", "reference", "limit")}
        self.comparison = Comparison(name=config.name, runs_dir=config.runs_dir, seed=config.seed, **shared)
        self.settings = evaluate.Settings(seed=config.seed, manifold_images=MANIFOLD_IMAGES)
        groups = data.conditioning.groups()
        self.group = np.arange(wanted.num, dtype=np.int64) * len(groups.titles) // wanted.num  # of each sample
        self.cond = conditions.index(groups.cond, self.group)
        with in_section_metrics():
            # The feature extractor; its index of each class, where it knows the classes.
            self.extractor, _ = feature_extractor(self.comparison, policy, config.root)
            self.labels = self.group  # Each class is a group.
            self.class_columns = known_classes(class_names, self.extractor, progress) if class_names else None
            asked = [record["labels"] for record in groups.records if "labels" in record]
            if asked and (checked := known_labels(asked, self.extractor, progress)):
                _, rows, self.class_columns = checked
                self.labels = rows[self.group]
            if self.class_columns is None and wanted.best == "class_accuracy":
                raise ConfigError(
                    f"`metrics.best=class_accuracy`, but {self.extractor.name} does not know the classes",
                    "take another number, or `metrics.features=classifier`",
                )

            # The reference images, which the main process alone reads.
            self.reference: ImageSource | None = None
            if processes.world().is_main:
                self.reference, self.reference_input = reference_images(self.comparison, data.described, progress)
                evaluate.require_enough(len(limited(self.reference, self.comparison)), wanted.num, self.settings)

        self.every = wanted.every
        self.higher_is_better = wanted.best in ("precision", "recall", "class_accuracy")
        self.criterion = _criterion(wanted.best, self.extractor.name)
        self.floor: dict[str, float] = {}  # what as many real images measure against the reference
        self.conditions: dict[str, Any] = {}

    def start(self, generator: Generator, validate: Callable[[], dict[str, float]], best: KeptState) -> None:
        """Compute the reference's features, unless an earlier process of this training did.

        generator: the network in training; validate: its task's; best: where the best state is saved.
        """
        self.generator, self.validate, self.best = generator, validate, best
        self.real = self._reference_features(self.reference) if self.reference is not None else None
        with stop_flag():
            processes.barrier()
        if self.real is None:
            return
        wanted = self.wanted
        floor = evaluate.compare_reals(self.real, wanted.num, self.extractor.name, self.settings)
        self.floor = {number: value for number, value in floor.items() if math.isfinite(value)}
        if self.class_columns is not None and self.extractor.accuracy is not None:
            self.floor[f"class_accuracy[{self.extractor.name}]"] = self.extractor.accuracy
            warn_if_weak(self.extractor.accuracy, self.extractor.name, self.progress)
        conditions = {
            **evaluate.conditions_of(self.extractor, len(self.real), wanted.num, self.settings),
            "sampling": {**self.sampling, "seed": wanted.seed},
            **size_recorded(self.data.size),
            "reference": self.reference_input["path"],
            "reference_sha256": self.reference_input["fingerprint"],
        }
        self.conditions = files.as_read(conditions)  # as lines of metrics.jsonl will hold them

    def _reference_features(self, reference: ImageSource) -> Features:
        folder = self.best.work.path / REFERENCE
        made_from = described_features(self.extractor, self.reference_input, self.comparison, self.data)
        features = kept_features(made_from, folder)
        if features is None:
            loader = image_loader(limited(reference, self.comparison), self.data, "reference", self.progress)
            with stop_flag() as stop:
                images = image_batches(loader, self.comparison, self.progress, "reference")
                features = extract(self.extractor, _until_stopped(stop, images))
            loader.close()
            keep_features(features, made_from, folder)
        return features

    def evaluate(self, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Draw the samples, each process its share, and compare them; None once a stop is requested."""
        fake = self._sample_features(should_stop)
        if fake is None:
            return None
        # In all processes, since a network may be sharded over them.
        loss = self.validate() if self.criterion == "val_loss" else {}
        if self.real is None:
            return {}
        name = self.extractor.name
        numbers: dict[str, Any] = evaluate.compare(self.real.features, fake.features, name, self.settings)
        if self.class_columns is not None:
            labels = torch.from_numpy(self.labels)
            numbers |= evaluate.class_accuracy(fake.logits, labels, self.class_columns, name)
        return {**numbers, **loss, "real_against_real": self.floor}

    def save_best(self, images_seen: int, numbers: Mapping[str, Any]) -> None:
        """Save the network's current state as the best; only the main process has the numbers."""
        measured = {name: value for name, value in numbers.items() if name != "real_against_real"}
        found = {"criterion": self.criterion, "value": numbers.get(self.criterion), "numbers": measured}
        self.best.save(images_seen, {**found, "real_against_real": self.floor, "conditions": self.conditions})

    def has_best(self) -> bool:
        return self.best.is_there()

    def _sample_features(self, should_stop: Callable[[], bool]) -> Features | None:
        """Draw all samples chunk by chunk, each process a share of every chunk, and return their features."""
        world, count = processes.world(), len(self.group)
        chunk = self.generator.at_once * world.size
        pieces = []
        self.progress.start("drawing samples to measure", count, "images")
        for start in range(0, count, chunk):
            if should_stop():
                break
            # Shares are of one size, as a gather needs it: the last samples may be drawn more than once.
            rows = np.arange(start, min(start + chunk, count))
            share = math.ceil(len(rows) / world.size)
            own = rows[(world.rank * share + np.arange(share)).clip(max=len(rows) - 1)]
            try:
                features = self._draw(own, should_stop if world.size == 1 else None)
            except _SamplingStopped:
                break
            pieces.append(processes.all_gather_rows(features)[: len(rows)].cpu())
            self.progress.update(int(rows[-1]) + 1)
        self.progress.finish()
        seen = torch.cat(pieces) if pieces else torch.empty(0, 0)
        if len(seen) < count:
            return None
        dim = self.extractor.dim
        return Features(seen[:, :dim], seen[:, dim:])

    def _draw(self, rows: np.ndarray, should_stop: Callable[[], bool] | None) -> Tensor:
        """Return features and logits, side by side, of some samples. Raises _SamplingStopped between two steps."""

        def stop_between_steps(step: int, look: Look) -> None:
            if should_stop is not None and should_stop():
                raise _SamplingStopped

        images = self.generator.draw(conditions.index(self.cond, rows), self.wanted.seed + rows, stop_between_steps)
        return torch.cat(self.extractor.both(as_tensor(images)), dim=1)


class _SamplingStopped(Exception):  # noqa: N818
    """Leaves a sampler between two steps."""


def _criterion(best: str, extractor_name: str) -> str:
    """Return the name, in `metrics.jsonl`, of the number by which the best state is chosen."""
    if best == "loss":
        return "val_loss"
    inception = extractor_name == INCEPTION
    names = {"frechet": "fid" if inception else "frechet_distance", "kernel": "kid" if inception else "kernel_distance"}
    return f"{names.get(best, best)}[{extractor_name}]"


def _until_stopped(stop: StopFlag, images: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield batches until a signal asks to stop. Raises Stopped."""
    for batch in images:
        if stop:
            raise stop.stopped("before the training, while reading the reference")
        yield batch


def refuse_sampler(wanted: Metrics, why: str, but: Sequence[str] = ()) -> None:
    """Raise ConfigError for a sampler or steps where a generator draws without, `but` those that it takes."""
    for name in ("sampler", "steps"):
        if name not in but and getattr(wanted, name) != type(wanted).model_fields[name].default:
            raise ConfigError(f"`{name}={getattr(wanted, name)}`: {why}", "leave it out")


@contextmanager
def in_section_metrics() -> Iterator[None]:
    """Prefix errors with the section of the settings they name, and add how to train without it."""
    try:
        yield
    except (ConfigError, DataError) as error:
        error.section = "metrics"
        error.message = error.message if error.setting else f"metrics: {error.message}"
        error.remedy = ", ".join(filter(None, (error.remedy, "or train without measuring samples: `metrics.every=0`")))
        raise
