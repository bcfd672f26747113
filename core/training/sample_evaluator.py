"""What `train-dit` measures of its samples while it trains: drawn as `ldm sample` draws, judged as `ldm eval` judges.

All that can be refused is settled before any work, the reference is looked at once, and the best state is kept as a
denoiser's folder of its own, which whatever takes a denoiser takes.
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

from ..distributed import processes
from ..errors import ConfigError, DataError
from ..features.extractor import INCEPTION, Extractor, Features, extract
from ..features.reference import keep_features, kept_features
from ..images.decode import as_tensor
from ..images.sets import image_loader
from ..images.settings import Data
from ..images.sources import ImageSource
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

REFERENCE = "metrics"  # folder in the denoiser's that holds what was seen in the reference
MANIFOLD_IMAGES = 2_000  # of each side, for the numbers whose cost grows with the square
_FLAGS = r"--(?=(cfg|steps|sampler|features|weights|reference|limit)\b)"


@dataclass(frozen=True)
class Judge:
    """How samples are drawn and what they are compared with.

    labels: int64 (N,), of the samples. columns: the extractor's logit of each class, where it knows the classes.
    images: the reference, in the first process only, and what it is.
    """

    config: DenoiserTraining
    policy: Policy
    sampling: Sampling
    labels: np.ndarray
    extractor: Extractor
    columns: list[int] | None
    settings: evaluate.Settings
    data: Data
    judgement: Comparison
    images: ImageSource | None
    reference: dict[str, Any]

    def look_at_reference(self, folder: Path, progress: Progress) -> Features | None:
        """Return what the extractor sees in the reference, once and for all; None but in the first process."""
        seen = None
        if self.images is not None:
            of = {
                **{name: getattr(self.extractor, name) for name in ("name", "weights_sha256", "resize")},
                "reference": self.reference["fingerprint"],
                "limit": self.judgement.limit,
                "seed": self.config.seed,
                "data": {name: value for name, value in identity(self.data).items() if name != "source"},
            }
            seen = kept_features(of, folder / REFERENCE)
            if seen is None:
                seen = self._look(progress)
                keep_features(seen, of, folder / REFERENCE)
        with stop_flag():
            processes.barrier()
        return seen

    def _look(self, progress: Progress) -> Features:
        assert self.images is not None
        loader = image_loader(limited(self.images, self.judgement), self.data, "reference", progress)
        with stop_flag() as stop:
            seen = extract(self.extractor, _until(stop, batches(loader, self.judgement, progress, "reference")))
        loader.close()
        return seen


def open_judge(
    config: DenoiserTraining, latents: StageRun, source: StageRun, policy: Policy, progress: Progress
) -> Judge:
    """Settle how samples of the denoiser in training are judged. Raises ConfigError and DataError for what cannot be.

    latents: what it is trained on; source: the autoencoder that they came from.
    """
    wanted, class_names = config.metrics, latents.metadata["class_names"]
    data = Data.model_validate(source.config["data"])
    shared = ("features", "weights", "reference", "limit")
    judgement = Comparison(
        name=config.name,
        runs_dir=config.runs_dir,
        seed=config.seed,
        **{name: getattr(wanted, name) for name in shared},
    )
    settings = evaluate.Settings(seed=config.seed, manifold_images=MANIFOLD_IMAGES)
    with _named_as_metrics():
        has_null, diffusion = config.label_dropout > 0, config.diffusion
        sampling = Sampling(
            cfg=(DEFAULT_CFG if has_null else 1.0) if wanted.cfg is None else wanted.cfg,
            sampler=wanted.sampler,
            steps=wanted.steps or None,
        ).on(diffusion.num_steps)
        check(sampling, diffusion.num_steps, has_null, latents.metadata["latent_shape"][0], diffusion.learn_variance)
        extractor, _ = feature_extractor(judgement, policy, config.root)
        columns = _class_columns(class_names, extractor, progress)
        if columns is None and wanted.best == "class_accuracy":
            raise ConfigError(
                f"metrics.best is class_accuracy, but the {extractor.name} extractor does not know the classes",
                "take another number, or metrics.features=classifier",
            )
        images, reference = reference_images(judgement, data) if processes.world().is_main else (None, {})
        if images is not None:
            evaluate.require_enough(len(limited(images, judgement)), wanted.num, settings)
    labels = np.arange(wanted.num, dtype=np.int64) * len(class_names) // wanted.num
    return Judge(config, policy, sampling, labels, extractor, columns, settings, data, judgement, images, reference)


class SampleEvaluator:
    """Draws samples of the network in training and measures them, as `core.training.evaluator` has it."""

    def __init__(
        self,
        judge: Judge,
        model: Model,
        real: Features | None,
        validate: Callable[[], dict[str, float]],
        state: BestState,
        progress: Progress,
    ) -> None:
        self.judge, self.model, self.real, self.validate = judge, model, real, validate
        self.state, self.progress = state, progress
        wanted, name = judge.config.metrics, judge.extractor.name
        self.every = wanted.every
        self.larger = wanted.best in ("precision", "recall", "class_accuracy")
        self.criterion = _criterion(wanted.best, name)
        self.floor: dict[str, float] = {}
        self.conditions: dict[str, Any] = {}
        if real is not None:
            floor = evaluate.compare_reals(real, wanted.num, name, judge.settings)
            self.floor = {number: value for number, value in floor.items() if math.isfinite(value)}
            self.conditions = {
                **evaluate.conditions_of(judge.extractor, len(real), wanted.num, judge.settings),
                "sampling": {**asdict(judge.sampling), "seed": wanted.seed},
                "image_size": judge.data.image_size,
                "reference": judge.reference["path"],
                "reference_sha256": judge.reference["fingerprint"],
            }
            self.conditions = json.loads(json.dumps(self.conditions))  # As a record's lines will have them.

    def measure(self, stopping: Callable[[], bool]) -> dict[str, Any] | None:
        """Draw the samples, each process its share, and measure them; None as soon as it is to stop."""
        fake = self._seen(stopping)
        # By all processes: a network that is sharded takes them all.
        loss = self.validate() if fake is not None and self.criterion == "val_loss" else {}
        if fake is None or self.real is None:
            return None if fake is None else {}
        judge, name = self.judge, self.judge.extractor.name
        numbers: dict[str, Any] = evaluate.compare(self.real.features, fake.features, name, judge.settings)
        if judge.columns is not None:
            numbers |= evaluate.class_accuracy(fake.logits, torch.from_numpy(judge.labels), judge.columns, name)
        return {**numbers, **loss, "real_against_real": self.floor}

    def keep(self, images_seen: int, numbers: Mapping[str, Any]) -> None:
        """Save the network as it is as the best; only the main process has the numbers."""
        measured = {name: value for name, value in numbers.items() if name != "real_against_real"}
        found = {"criterion": self.criterion, "value": numbers.get(self.criterion), "numbers": measured}
        self.state.save(images_seen, {**found, "real_against_real": self.floor, "conditions": self.conditions})

    def keeps_one(self) -> bool:
        return self.state.is_there()

    def _seen(self, stopping: Callable[[], bool]) -> Features | None:
        """Draw all samples, and return what the extractor sees in them."""
        world, count = processes.world(), len(self.judge.labels)
        at_once = chunk_size(self.model.latent_shape, self.judge.policy) * world.size
        pieces = []
        self.progress.start("drawing samples to measure", count, "images")
        for start in range(0, count, at_once):
            if stopping():
                break
            turn = np.arange(start, min(start + at_once, count))
            share = math.ceil(len(turn) / world.size)
            own = turn[(world.rank * share + np.arange(share)).clip(max=len(turn) - 1)]
            try:
                seen = self._draw(own, stopping if world.size == 1 else None)
            except _StopAskedFor:
                break
            pieces.append(processes.all_gather_rows(seen)[: len(turn)].cpu())
            self.progress.update(int(turn[-1]) + 1)
        self.progress.finish()
        seen = torch.cat(pieces) if pieces else torch.empty(0, 0)
        if len(seen) < count:
            return None
        dim = self.judge.extractor.dim
        return Features(seen[:, :dim], seen[:, dim:])

    def _draw(self, rows: np.ndarray, stopping: Callable[[], bool] | None) -> Tensor:
        """Return features and logits, side by side, of some samples; between steps, see whether to stop."""

        def stop_when_asked(step: int, time: float, x: Tensor, x0: Tensor) -> None:
            if stopping is not None and stopping():
                raise _StopAskedFor

        judge = self.judge
        indices = judge.config.metrics.seed + rows
        images = generate(self.model, judge.labels[rows], indices, judge.sampling, judge.policy, stop_when_asked)
        return torch.cat(judge.extractor.both(as_tensor(images)), dim=1)


class _StopAskedFor(Exception):  # noqa: N818
    """Leaves a sampler half-way."""


def _criterion(best: str, extractor_name: str) -> str:
    """Return the name, in a record, of the number by which the best state is chosen."""
    if best == "loss":
        return "val_loss"
    inception = extractor_name == INCEPTION
    names = {"frechet": "fid" if inception else "frechet_distance", "kernel": "kid" if inception else "kernel_distance"}
    return f"{names.get(best, best)}[{extractor_name}]"


def _class_columns(class_names: list[str], extractor: Extractor, progress: Progress) -> list[int] | None:
    """Return the extractor's index of each class; None, and say so, where it does not know them."""
    if extractor.class_names is None:
        return None
    try:
        return evaluate.class_columns(class_names, extractor.class_names)
    except ConfigError as error:
        progress.warn(f"metrics: no class accuracy: {error.message}")
        return None


def _until(stop: StopFlag, images: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield batches until a stop is asked for. Raises Stopped."""
    for batch in images:
        if stop:
            raise stop.stopped("before the training, looking at the reference")
        yield batch


@contextmanager
def _named_as_metrics() -> Iterator[None]:
    """Name the flags of other commands in errors as the settings that they are here, and the way out."""
    try:
        yield
    except (ConfigError, DataError) as error:
        message, remedy = (re.sub(_FLAGS, "metrics.", text) for text in (error.message, error.remedy or ""))
        way_out = "or train without measuring samples: metrics.every=0"
        named = message if message.startswith("metrics.") else f"metrics: {message}"
        raise type(error)(named, ", ".join(filter(None, (remedy, way_out)))) from None
