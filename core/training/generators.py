"""Training of a generator on latents, of any kind: data in, its folder with `final/`, and perhaps `best/`, out."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from ..autoencoders.codec import Autoencoder
from ..conditioning.registry import recorded
from ..distributed import processes
from ..latents.dataset import LatentSets
from ..pipeline.best import BestState, described, open_best
from ..pipeline.generator import Generator
from ..pipeline.loading import load_autoencoder
from ..pipeline.training_data import TrainingData, training_data
from ..progress import Outcome, Progress
from ..runs.claim import is_whole
from ..runs.outputs import claim, command_line, occupied, output_folder
from ..runs.roles import Role
from ..system.compile import eager_mode
from ..system.precision import Policy
from . import loop
from .sample_evaluator import SampleEvaluator, in_section_metrics
from .start import open_start
from .task import Task
from .tasks.settings import GeneratorTraining

_OUTPUTS = ["final/model.safetensors", "final/config.json"]


class GeneratorTask(Task, Protocol):
    """A `Task` whose network is a generator."""

    @property
    def network(self) -> nn.Module: ...

    def generator(self, sampling: Any) -> Generator:
        """Return the network in training as sampling sees it."""


class Kind(Protocol):
    """A kind of generator: what the training of each has of its own."""

    @property
    def noun(self) -> str:
        """The generator, in words."""

    @property
    def role(self) -> Role:
        """What other stages open it as."""

    def network(self, data: TrainingData, autoencoder: Autoencoder) -> Any:
        """Return the config of the network. Raises ConfigError for settings that do not fit the data."""

    def sampling(self, data: TrainingData) -> Any:
        """Return how samples are drawn to be evaluated, a dataclass. Raises ConfigError for what it cannot do."""

    def task(self, network: Any, latents: LatentSets, autoencoder: Autoencoder, policy: Policy) -> GeneratorTask:
        """Return what is trained."""

    def describe(self, network: Any) -> Mapping[str, Any]:
        """Return what sampling needs beside the weights, JSON."""

    def save(self, network: Any, folder: Path, extra: dict[str, Any]) -> None:
        """Write the network's folder."""

    def sample_flags(self, data: TrainingData) -> str | None:
        """Return the flags of `ldm sample` to propose; None where no images can be drawn."""


def train_generator(config: GeneratorTraining, kind: Kind, progress: Progress, shard: bool = False) -> Outcome:
    """Train a generator on a run's latents, or on its images where the autoencoder keeps pixels.

    shard: whether each process holds its part of the network only.
    """
    folder = output_folder(config)
    with occupied(folder, config.machine, config.train) as policy:
        data = training_data(config.latents, config, policy, config.label_dropout, config.conditioning != "none")
        # Refuse wrong settings before anything is discarded.
        autoencoder = load_autoencoder(data.autoencoder, policy).network
        network, sampling = kind.network(data, autoencoder), None
        evaluator = None
        if config.metrics.every and (config.replace or not is_whole(folder, config.kind)):
            with in_section_metrics():
                sampling = kind.sampling(data)
            evaluator = SampleEvaluator(config, config.metrics, data, vars(sampling), policy, progress)
        start = open_start(kind.role, config, inputs := data.inputs(folder), folder)
        work = claim(folder, config, inputs, progress)
        flags = kind.sample_flags(data)
        next_commands = [] if flags is None else [f"{command_line('sample', config)} {flags}"]
        if work.complete:
            return Outcome(folder, already_complete=True, next_commands=next_commands)

        # Train, and keep the best state.
        sets = data.read(policy, progress, config.reading)
        task = kind.task(network, sets, autoencoder, policy)
        if start is not None:
            start.load(task.network, data.conditioning.class_names, progress)
        description = {**kind.describe(network), **_description(config, data)}
        state = BestState(work, partial(kind.save, task.network), description)
        if evaluator is not None:
            evaluator.start(task.generator(sampling), task.validate, state)
        plan = loop.Plan(**config.train.model_dump(), seed=config.seed, picture_every=config.preview.every)
        metadata = loop.train(task, plan, policy, folder, progress, evaluator)

        # Write what is trained; of a sharded network, each process its part.
        if not (processes.world().is_main or shard):
            return Outcome(folder)
        with eager_mode():
            metadata |= description | {"validation_loss": task.validate()["val_loss"]}
        kind.save(task.network, folder / "final", description)
        if not processes.world().is_main:
            return Outcome(folder)
        work.commit(_OUTPUTS, metadata)

    # What the command shows.
    summary = {
        kind.noun: f"{sum(p.numel() for p in task.network.parameters()) / 1e6:.1f} M parameters",
        "images seen": f"{metadata['images_seen']:,}",
        "validation loss": f"{metadata['validation_loss']:.4f}",
    }
    if state.is_there():
        best = open_best(folder, work.command)
        summary["best"] = described(best)
        if best.metadata["images_seen"] < metadata["images_seen"]:
            next_commands += [f"{command} --checkpoint best" for command in next_commands]
    pictures = [*sorted((folder / "samples").glob("*.png"))[-1:], folder / "loss.png"]
    return Outcome(folder, summary=summary, pictures=pictures, next_commands=next_commands)


def _description(config: GeneratorTraining, data: TrainingData) -> dict[str, Any]:
    """Return what sampling needs beside the weights of a generator of any kind."""
    return {
        "label_dropout": config.label_dropout if data.conditioning.has_null else 0.0,
        **recorded(data.conditioning),
        **{name: data.described.metadata[name] for name in ("latent_shape", "image_size")},
    }
