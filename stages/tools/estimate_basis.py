"""What an estimate knows before it counts: the recipe's settings, its data, its networks, and the machine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ...core.autoencoders import registry
from ...core.denoisers.dit_config import DiTConfig
from ...core.errors import ConfigError, DataError
from ...core.estimation.kernels import LAUNCH
from ...core.estimation.machines import MACHINES, UTILISATION
from ...core.images.sets import exclusion_of
from ...core.images.settings import Data
from ...core.images.sources import open_parts, open_source, open_splits, own_held_out
from ...core.runs.outputs import machine_policy
from ...core.system.precision import Policy
from ...core.training.task import Task
from ..configs import Encode, Sample, TrainClassifier, TrainDiT, TrainVQVAE
from ..configs.estimate import Estimate

ASSUMED_CLASSES = 10


@dataclass(frozen=True)
class Stages:
    """The settings of the stages of a recipe, and of what needs them: how each training makes its task."""

    train_vqvae: TrainVQVAE
    encode: Encode
    train_dit: TrainDiT
    train_classifier: TrainClassifier
    sample: Sample
    tasks: Mapping[str, Callable[..., Task]]
    denoiser: Callable[..., DiTConfig]


@dataclass(frozen=True)
class Images:
    """A recipe's images: how many to train on and held out, None where they are not at hand; names of the classes."""

    train: int | None
    val: int | None
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Basis:
    """All that the counts of the stages have in common.

    policy: device and dtype of the machine that is estimated. rate: its operations a second, None for this
    machine, which is measured. network: of the denoiser. notes: what had to be assumed, in sentences.
    """

    how: Estimate
    stages: Stages
    images: Images
    latent_shape: tuple[int, int, int]
    network: DiTConfig
    policy: Policy
    rate: float | None
    notes: list[str]

    @property
    def measured(self) -> bool:
        """Whether time is measured here."""
        return self.rate is None

    def seconds_of(self, operations: float, kernels: float) -> float:
        """Return what so many operations take on the machine that was named.

        A GPU computes while the next kernels are asked for: what takes longer counts. A machine of which only the rate
        is known has no launches to count.
        """
        assert self.rate is not None, "a machine at hand is measured"
        return max(operations / self.rate, kernels * LAUNCH if self.launches else 0.0)

    def limit(self, operations: float, kernels: float) -> str | None:
        """Say what takes the time: `launches` or `arithmetic`; None where it is not known."""
        if self.rate is None or not self.launches:
            return None
        return "launches" if kernels * LAUNCH > operations / self.rate else "arithmetic"

    @property
    def launches(self) -> bool:
        """Whether kernels take time to be launched: on a GPU that is known by name."""
        return self.rate is not None and self.how.where != "this"

    def note(self, sentence: str) -> None:
        """Keep what had to be assumed, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def share(self, batch_size: int, accumulate: int = 1) -> int:
        """Return how many images of a batch go through a GPU at once. Raises ConfigError where they do not divide."""
        parts = self.how.gpus * accumulate
        if batch_size % parts:
            raise ConfigError(
                f"a batch of {batch_size} does not divide among {self.how.gpus} GPUs in {accumulate} passes",
                f"give a --batch-size that is a multiple of {parts}",
            )
        return batch_size // parts


def basis(how: Estimate, stages: Stages) -> Basis:
    """Find out what the counts need. Raises ConfigError for settings that cannot be."""
    notes: list[str] = []
    policy, rate = _machine(how, stages.train_dit)
    images = _images(how, stages.train_vqvae.data, notes)
    shape = how.latent or _latent_shape(stages.train_vqvae)
    network = stages.denoiser(stages.train_dit, shape, len(images.class_names))
    return Basis(how, stages, images, shape, network, policy, rate, notes)


def _machine(how: Estimate, stage: TrainDiT) -> tuple[Policy, float | None]:
    """Return what would compute, in which format, and at which rate where that is not to be measured."""
    share = UTILISATION if how.utilisation is None else how.utilisation
    wanted = stage.machine.precision
    if how.where == "this" and how.flops is None:
        if how.utilisation is not None:
            raise ConfigError("--utilisation says nothing where this machine is measured", "add --machine or --flops")
        return machine_policy(stage.machine), None
    if how.where == "this":
        assert how.flops is not None
        return machine_policy(stage.machine), how.flops * share
    rates = MACHINES[how.where].rates
    name = ("bf16" if "bf16" in rates else "fp16") if wanted == "auto" else wanted
    if name not in rates:
        raise ConfigError(f"--precision {name} does not serve {how.where}", f"use {' or '.join(rates)}")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    return Policy(torch.device("cuda"), dtype), (how.flops or rates[name]) * share


def _images(how: Estimate, data: Data, notes: list[str]) -> Images:
    """Count the images where they are, without reading any."""
    train: int | None = None
    val: int | None = None
    names: tuple[str, ...] | None = None
    try:
        if data.source is not None:
            names, train, val = _counts(data, data.source)
    except (DataError, ConfigError) as error:
        notes.append(f"the images are not at hand ({error.message})")
    if how.dataset is not None:
        train, val = how.dataset, round(how.dataset * data.val_fraction)
    if train is None:
        notes.append("how many images there are is unknown: what depends on it is left out; --dataset N says it")
    if how.classes is not None:
        names = tuple(f"class {number}" for number in range(how.classes))
    if names is None:
        notes.append(f"how many classes there are is unknown: {ASSUMED_CLASSES} assumed; --classes N says it")
        names = tuple(f"class {number}" for number in range(ASSUMED_CLASSES))
    return Images(train, val, names)


def _counts(data: Data, location: str) -> tuple[tuple[str, ...], int, int]:
    """Return the names of the classes, and how many images are trained on and held out, as training would open them.

    How many are held out of images that come as one part is taken from the fraction: the choice would read them all.
    """
    exclude = exclusion_of(data)
    if data.validation is not None or own_held_out(location):
        train, val = open_splits(location, data.validation, data.val_fraction, exclude)
        return train.class_names, len(train), len(val)
    source = open_source(location)
    if exclude is not None:
        ((_, source),) = exclude.leave_out([("all", source)], lambda: [*open_parts(location).items()])
    held_out = round(len(source) * data.val_fraction)
    return source.class_names, len(source) - held_out, held_out


def _latent_shape(stage: TrainVQVAE) -> tuple[int, int, int]:
    """Return the shape of the latents that the autoencoder of a recipe makes."""
    size = stage.data.image_size
    if stage.autoencoder is not None:
        if not stage.autoencoder.is_dir():
            raise ConfigError(
                f"the autoencoder {stage.autoencoder} is not at hand", "give the latents' shape: --latent 4,32,32"
            )
        return registry.load(stage.autoencoder).latent_shape(size)
    with torch.device("meta"):
        return registry.build(stage.model.network_config()).latent_shape(size)


def counting_policy(policy: Policy) -> Policy:
    """Return the policy under which small networks are run on the CPU to be counted: of the same width."""
    return Policy(torch.device("cpu"), torch.float32 if policy.dtype == torch.float32 else torch.bfloat16)
