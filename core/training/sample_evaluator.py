"""Evaluation of a denoiser in training by its samples: drawn as by `ldm sample`, compared as by `ldm eval`.

Everything that can be refused is refused before any work, the reference's features are computed once, and the best
state is saved as a denoiser's folder of its own, which can be used wherever a denoiser is.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..conditioning.registry import conditioning_of
from ..diffusion import conditions
from ..diffusion.conditions import Cond
from ..distributed import processes
from ..errors import ConfigError, DataError
from ..features.extractor import INCEPTION, Extractor, Features, extract
from ..features.reference import keep_features, kept_features
from ..images.dataset import ImageSource
from ..images.decode import as_tensor
from ..images.sets import image_loader
from ..images.settings import Data
from ..metrics import evaluate
from ..metrics.judging import batches, feature_extractor, limited, reference_images
from ..metrics.settings import Comparison
from ..pipeline.best import BestState
from ..pipeline.generation import DEFAULT_CFG, Sampling, check, chunk_size, generate
from ..pipeline.model import Model
from ..progress import Progress
from ..runs.run import StageRun
from ..settings.fields import identity
from ..system.precision import Policy
from ..system.signals import StopFlag, stop_flag
from .tasks.settings import DenoiserTraining

REFERENCE = "metrics"  # folder in the denoiser's that holds the reference's features
MANIFOLD_IMAGES = 2_000  # of each side, for the numbers whose cost grows with the square
_FLAGS = r"--(?=(cfg|steps|sampler|features|weights|reference|limit)\b)"


@dataclass(frozen=True)
class EvaluationSetup:
    """How samples are drawn and what they are compared with.

    cond: of the samples. labels: int64 (N,), the class of each. class_columns: the extractor's logit of each class,
    where it knows the classes. reference: images to compare with, in the main process only; reference_input: its path
    and fingerprint.
    """

    config: DenoiserTraining
    policy: Policy
    sampling: Sampling
    cond: Cond
    labels: np.ndarray
    extractor: Extractor
    class_columns: list[int] | None
    settings: evaluate.Settings
    data: Data
    comparison: Comparison
    reference: ImageSource | None
    reference_input: dict[str, Any]

    def reference_features(self, folder: Path, progress: Progress) -> Features | None:
        """Return the reference's features, computed once per training; None but in the main process."""
        features = None
        if self.reference is not None:
            made_from = {
                **{name: getattr(self.extractor, name) for name in ("name", "weights_sha256", "resize")},
                "reference": self.reference_input["fingerprint"],
                "limit": self.comparison.limit,
                "seed": self.config.seed,
                "data": {name: value for name, value in identity(self.data).items() if name != "source"},
            }
            features = kept_features(made_from, folder / REFERENCE)
            if features is None:
                features = self._extract_reference(self.reference, progress)
                keep_features(features, made_from, folder / REFERENCE)
        with stop_flag():
            processes.barrier()
        return features

    def _extract_reference(self, reference: ImageSource, progress: Progress) -> Features:
        loader = image_loader(limited(reference, self.comparison), self.data, "reference", progress)
        with stop_flag() as stop:
            images = batches(loader, self.comparison, progress, "reference")
            features = extract(self.extractor, _until_stopped(stop, images))
        loader.close()
        return features


def prepare_evaluation(
    config: DenoiserTraining, latents: StageRun, source: StageRun, policy: Policy, progress: Progress
) -> EvaluationSetup:
    """Decide how samples of the denoiser in training are evaluated. Raises ConfigError and DataError where they cannot.

    latents: what it is trained on; source: the autoencoder that they came from.
    """
    wanted, class_names = config.metrics, latents.metadata["class_names"]
    data = Data.model_validate(source.config["data"])
    shared = ("features", "weights", "reference", "limit")
    comparison = Comparison(
        name=config.name,
        runs_dir=config.runs_dir,
        seed=config.seed,
        **{name: getattr(wanted, name) for name in shared},
    )
    settings = evaluate.Settings(seed=config.seed, manifold_images=MANIFOLD_IMAGES)
    with _errors_name_metrics():
        has_null, diffusion = config.label_dropout > 0, config.diffusion
        sampling = Sampling(
            cfg=(DEFAULT_CFG if has_null else 1.0) if wanted.cfg is None else wanted.cfg,
            sampler=wanted.sampler,
            steps=wanted.steps or None,
        ).on(diffusion.num_steps)
        check(sampling, diffusion.num_steps, has_null, latents.metadata["latent_shape"][0], diffusion.learn_variance)
        extractor, _ = feature_extractor(comparison, policy, config.root)
        columns = _class_columns(class_names, extractor, progress)
        if columns is None and wanted.best == "class_accuracy":
            raise ConfigError(
                f"metrics.best is class_accuracy, but the {extractor.name} extractor does not know the classes",
                "take another number, or metrics.features=classifier",
            )
        reference, reference_input = reference_images(comparison, data) if processes.world().is_main else (None, {})
        if reference is not None:
            evaluate.require_enough(len(limited(reference, comparison)), wanted.num, settings)
    request = conditioning_of(latents.metadata).request("all")
    labels = np.arange(wanted.num, dtype=np.int64) * len(request.titles) // wanted.num
    return EvaluationSetup(
        config,
        policy,
        sampling,
        conditions.index(request.cond, labels),
        labels,
        extractor,
        columns,
        settings,
        data,
        comparison,
        reference,
        reference_input,
    )


class SampleEvaluator:
    """Draws samples of the network in training and compares them with the reference: an `Evaluator`.

    real: the reference's features, in the main process. validate: the task's. best: where the best state is saved.
    """

    def __init__(
        self,
        setup: EvaluationSetup,
        model: Model,
        real: Features | None,
        validate: Callable[[], dict[str, float]],
        best: BestState,
        progress: Progress,
    ) -> None:
        self.setup, self.model, self.real, self.validate = setup, model, real, validate
        self.best, self.progress = best, progress
        wanted, name = setup.config.metrics, setup.extractor.name
        self.every = wanted.every
        self.higher_is_better = wanted.best in ("precision", "recall", "class_accuracy")
        self.criterion = _criterion(wanted.best, name)
        self.floor: dict[str, float] = {}  # what as many real images measure against the reference
        self.conditions: dict[str, Any] = {}
        if real is not None:
            floor = evaluate.compare_reals(real, wanted.num, name, setup.settings)
            self.floor = {number: value for number, value in floor.items() if math.isfinite(value)}
            conditions = {
                **evaluate.conditions_of(setup.extractor, len(real), wanted.num, setup.settings),
                "sampling": {**asdict(setup.sampling), "seed": wanted.seed},
                "image_size": setup.data.image_size,
                "reference": setup.reference_input["path"],
                "reference_sha256": setup.reference_input["fingerprint"],
            }
            self.conditions = json.loads(json.dumps(conditions))  # as lines of metrics.jsonl will hold them

    def evaluate(self, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Draw the samples, each process its share, and compare them; None as soon as it is to stop."""
        fake = self._sample_features(should_stop)
        if fake is None:
            return None
        # In all processes, for a network may be sharded over them.
        loss = self.validate() if self.criterion == "val_loss" else {}
        if self.real is None:
            return {}
        setup, name = self.setup, self.setup.extractor.name
        numbers: dict[str, Any] = evaluate.compare(self.real.features, fake.features, name, setup.settings)
        if setup.class_columns is not None:
            labels = torch.from_numpy(setup.labels)
            numbers |= evaluate.class_accuracy(fake.logits, labels, setup.class_columns, name)
        return {**numbers, **loss, "real_against_real": self.floor}

    def save_best(self, images_seen: int, numbers: Mapping[str, Any]) -> None:
        """Save the network as it is as the best; only the main process has the numbers."""
        measured = {name: value for name, value in numbers.items() if name != "real_against_real"}
        found = {"criterion": self.criterion, "value": numbers.get(self.criterion), "numbers": measured}
        self.best.save(images_seen, {**found, "real_against_real": self.floor, "conditions": self.conditions})

    def has_best(self) -> bool:
        return self.best.is_there()

    def _sample_features(self, should_stop: Callable[[], bool]) -> Features | None:
        """Draw all samples chunk by chunk, each process a share of every chunk, and return their features."""
        world, count = processes.world(), len(self.setup.labels)
        chunk = chunk_size(self.model.latent_shape, self.setup.policy) * world.size
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
        dim = self.setup.extractor.dim
        return Features(seen[:, :dim], seen[:, dim:])

    def _draw(self, rows: np.ndarray, should_stop: Callable[[], bool] | None) -> Tensor:
        """Return features and logits, side by side, of some samples. Raises _SamplingStopped between two steps."""

        def stop_between_steps(step: int, time: float, x: Tensor, x0: Tensor) -> None:
            if should_stop is not None and should_stop():
                raise _SamplingStopped

        setup = self.setup
        indices = setup.config.metrics.seed + rows
        cond = conditions.index(setup.cond, rows)
        images = generate(self.model, cond, indices, setup.sampling, setup.policy, stop_between_steps)
        return torch.cat(setup.extractor.both(as_tensor(images)), dim=1)


class _SamplingStopped(Exception):  # noqa: N818
    """Leaves a sampler between two steps."""


def _criterion(best: str, extractor_name: str) -> str:
    """Return the name, in `metrics.jsonl`, of the number by which the best state is chosen."""
    if best == "loss":
        return "val_loss"
    inception = extractor_name == INCEPTION
    names = {"frechet": "fid" if inception else "frechet_distance", "kernel": "kid" if inception else "kernel_distance"}
    return f"{names.get(best, best)}[{extractor_name}]"


def _class_columns(class_names: list[str], extractor: Extractor, progress: Progress) -> list[int] | None:
    """Return the extractor's index of each class; None, with a warning, where it does not know them."""
    if extractor.class_names is None:
        return None
    try:
        return evaluate.class_columns(class_names, extractor.class_names)
    except ConfigError as error:
        progress.warn(f"metrics: no class accuracy: {error.message}")
        return None


def _until_stopped(stop: StopFlag, images: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield batches until a signal asks to stop. Raises Stopped."""
    for batch in images:
        if stop:
            raise stop.stopped("before the training, looking at the reference")
        yield batch


@contextmanager
def _errors_name_metrics() -> Iterator[None]:
    """Let errors name the flags of other commands as the settings that they are here, with a remedy."""
    try:
        yield
    except (ConfigError, DataError) as error:
        message, remedy = (re.sub(_FLAGS, "metrics.", text) for text in (error.message, error.remedy or ""))
        without = "or train without measuring samples: metrics.every=0"
        named = message if message.startswith("metrics.") else f"metrics: {message}"
        raise type(error)(named, ", ".join(filter(None, (remedy, without)))) from None
