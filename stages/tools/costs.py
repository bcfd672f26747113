"""The basis of an estimate — a recipe's settings, its images, the machine — and what a stage costs, as a table."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch

from ...core.autoencoders import registry as autoencoders
from ...core.autoencoders.codec import Autoencoder
from ...core.conditioning.attributes import ATTRIBUTES
from ...core.conditioning.conditioning import Conditioning
from ...core.conditioning.own_encoder import OwnEncoder
from ...core.conditioning.text import TextConditioning
from ...core.errors import ConfigError
from ...core.latents.dataset import LatentSets
from ...core.progress import duration
from ...core.runs.outputs import machine_policy
from ...core.runs.roles import generators
from ...core.system.flops import GPUS, LARGE, LAUNCH, SMALL_UTILISATION, UTILISATION
from ...core.system.precision import DTYPES, Policy
from ...core.system.settings import Machine
from ..configs import Sample
from ..configs.estimate import Estimate
from . import dummy, words
from .counting import CountedImages, count_images

ASSUMED_TEXT = (24, 1000)  # tokens, and how many differ: counting them would read all captions


@dataclass(frozen=True)
class Basis:
    """What all stages' costs depend on.

    recipe: the stages' settings, by the role of what they make. images: how many, and what they come with. policy:
    device and dtype of the machine that is estimated. rate: its FLOP/s in training, None for this machine, which is
    measured. notes: what was assumed.
    """

    how: Estimate
    recipe: SimpleNamespace
    images: CountedImages
    policy: Policy
    rate: float | None
    notes: list[str]

    @cached_property
    def autoencoder(self) -> Autoencoder | None:
        """The recipe's autoencoder, with random weights where it would be trained; None for latents of a given shape.

        Raises ConfigError where a ready one is not available.
        """
        stage = self.recipe.autoencoder
        if self.how.latent is not None:
            return None
        if stage.autoencoder is None:
            return autoencoders.build(autoencoders.config_of(stage.model, stage.data.channels)).eval()
        if not stage.autoencoder.is_dir():
            what = f"the autoencoder {stage.autoencoder} is not available"
            raise ConfigError(what, "give the latents' shape: `latent=4,32,32`")
        return autoencoders.load(stage.autoencoder)

    @property
    def generator(self) -> Any:
        """The settings of the recipe's training of a generator."""
        return next(getattr(self.recipe, role.name) for role in generators() if hasattr(self.recipe, role.name))

    def classes_drawn(self, conditioning: Conditioning, stage: Sample) -> int:
        """Return of how many classes samples are drawn."""
        try:
            return len(conditioning.request(stage.asked).titles)
        except ConfigError:
            classes = len(stage.classes.split(","))
            self.note(f"--class {stage.classes} is counted as {classes} classes")
            return classes

    @cached_property
    def latents(self) -> LatentSets:
        """Noise in the place of latents."""
        data, autoencoder = self.recipe.autoencoder.data, self.autoencoder
        shape = autoencoder.latent_shape(data.size) if autoencoder else self.how.latent
        assert shape is not None, "given where there is no autoencoder"
        device = self.policy.device if self.rate is None else torch.device("cpu")
        conditioning = self.texts(has_null=True) if self.images.captioned else self.images.attributes
        return dummy.latents(shape, len(self.images.class_names), data.flip, device, conditioning)

    def texts(self, has_null: bool) -> TextConditioning:
        """Return captions of an assumed length, read by a network that is trained with the denoiser."""
        length, vocabulary = ASSUMED_TEXT
        self.note(f"captions are taken as {length} tokens, of {vocabulary:,} different ones")
        return TextConditioning(OwnEncoder().describe(), length, tuple(range(vocabulary)), has_null=has_null)

    @property
    def launches(self) -> bool:
        """Whether launching kernels takes time: on a GPU of a known name."""
        return self.rate is not None and self.how.where != "this"

    def note(self, sentence: str) -> None:
        """Record an assumption, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def seconds(self, flops: float, kernels: float, parameters: int) -> tuple[float, str | None]:
        """Return how long work takes on the given machine, and its limit, where known.

        A GPU computes while the next kernels are launched: the longer of the two counts, `arithmetic` or `launches`.
        parameters: of the network; small ones reach less of a GPU's peak, unless the share is given.
        """
        assert self.rate is not None, "this machine is measured"
        is_small = self.launches and self.how.utilisation is None and parameters < LARGE
        rate = self.rate * SMALL_UTILISATION / UTILISATION if is_small else self.rate
        computing, launching = flops / rate, kernels * LAUNCH
        if not self.launches:
            return computing, None
        return max(computing, launching), "launches" if launching > computing else "arithmetic"

    def share(self, batch_size: int, accumulate: int = 1) -> int:
        """Return how many images of a batch go through a GPU at once. Raises ConfigError where they do not divide."""
        parts = self.how.gpus * accumulate
        if batch_size % parts:
            raise ConfigError(
                f"a batch of {batch_size} does not divide among {self.how.gpus} GPUs in {accumulate} passes",
                f"give a `batch_size` that is a multiple of {parts}",
            )
        return batch_size // parts


def basis(how: Estimate, recipe: SimpleNamespace) -> Basis:
    """Return what all stages' costs depend on. Raises ConfigError for settings that contradict each other."""
    notes: list[str] = []
    kinds = {getattr(stage, "conditioning", None) for stage in vars(recipe).values()}
    images = count_images(how, recipe.autoencoder.data, ATTRIBUTES in kinds, notes)
    machine = next(getattr(recipe, role.name) for role in generators() if hasattr(recipe, role.name)).machine
    return Basis(how, recipe, images, *_machine(how, machine), notes)


def _machine(how: Estimate, machine: Machine) -> tuple[Policy, float | None]:
    """Return what computes, in which dtype, and at how many FLOP/s where that is not measured."""
    share = UTILISATION if how.utilisation is None else how.utilisation
    if how.where == "this":
        if how.flops is None and how.utilisation is not None:
            raise ConfigError("`utilisation` has no effect where this machine is measured", "add `where` or `flops`")
        return machine_policy(machine), None if how.flops is None else how.flops * share
    rates, wanted = GPUS[how.where], machine.precision
    name = ("bf16" if "bf16" in rates else "fp16") if wanted == "auto" else wanted
    if name not in rates:
        raise ConfigError(f"`machine.precision={name}` is not supported on {how.where}", f"use {' or '.join(rates)}")
    return Policy(torch.device("cuda"), DTYPES[name]), (how.flops or rates[name] * 1e12) * share


@dataclass(frozen=True)
class StageCost:
    """What one stage costs; None is unknown, or does not apply.

    images: that go through the network, repeats counted. batch: at once, over all GPUs. operations: FLOPs of one
    image, and in_all of the stage. memory: bytes of a process, by what they are for; `recomputing` is the most there is
    with checkpointing. disk: the most bytes at a time of latents, or of weights and checkpoints. rate: images a second,
    over all GPUs. limit: of a GPU known by name, what limits the rate: `launches` or `arithmetic`.
    """

    stage: str
    images: int | None = None
    batch: int | None = None
    parameters: int | None = None
    operations: int | None = None
    in_all: float | None = None
    memory: dict[str, int] = field(default_factory=dict)
    disk: int | None = None
    rate: float | None = None
    limit: str | None = None
    seconds: float | None = None

    @classmethod
    def of_drawing(cls, stage: str, images: int, operations: int, rate: float | None, limit: str | None) -> "StageCost":
        """Return the cost of drawing so many images at a rate, where that is known."""
        seconds = None if rate is None else images / rate
        in_all = float(operations) * images
        return cls(stage, images, operations=operations, in_all=in_all, rate=rate, limit=limit, seconds=seconds)


def _bytes(value: float) -> str:
    return f"{words.amount(value)}B"


_ROWS: list[tuple[str, Callable[[StageCost], Any], Callable[[Any], str]]] = [
    ("images", lambda c: c.images, lambda n: f"{n:,}"),
    ("at once", lambda c: c.batch, str),
    ("parameters", lambda c: c.parameters, words.amount),
    ("FLOP an image", lambda c: c.operations, words.amount),
    ("FLOP in all", lambda c: c.in_all, words.amount),
    ("weights", lambda c: c.memory.get("weights"), _bytes),
    ("gradients", lambda c: c.memory.get("gradients"), _bytes),
    ("optimizer", lambda c: c.memory.get("moments"), _bytes),
    ("EMA", lambda c: c.memory.get("average"), _bytes),
    ("activations", lambda c: c.memory.get("activations"), _bytes),
    ("memory at most", lambda c: c.memory.get("together"), _bytes),
    ("… checkpointing", lambda c: c.memory.get("recomputing"), _bytes),
    ("on the disk", lambda c: c.disk, _bytes),
    ("images/s", lambda c: c.rate, words.rate),
    ("limited by", lambda c: c.limit, str),
    ("time", lambda c: c.seconds, duration),
]


def table(costs: Iterable[StageCost]) -> dict[str, str]:
    """Lay costs out: a row for each quantity that any stage has, a column for each stage, aligned."""
    chosen = list(costs)
    columns = {"stage": [cost.stage for cost in chosen]}
    for name, of, write in _ROWS:
        cells = ["" if (value := of(cost)) is None else write(value) for cost in chosen]
        if any(cells):
            columns[name] = cells
    widths = [max(len(cells[number]) for cells in columns.values()) for number in range(len(chosen))]
    return {
        name: "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in columns.items()
    }
