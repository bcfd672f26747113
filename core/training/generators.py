"""Training of a generator on latents, of any kind: data in, its folder with `final/`, and perhaps `best/`, out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import nn

from .. import files
from ..autoencoders.codec import Autoencoder
from ..conditioning.registry import recorded
from ..distributed import processes
from ..latents.dataset import LatentSets
from ..pipeline.generator import Generator
from ..pipeline.kept import KeptState, described, open_kept
from ..pipeline.latest import write_outline
from ..pipeline.loading import load_autoencoder
from ..pipeline.training_data import TrainingData, training_data
from ..progress import Outcome, Progress
from ..runs.claim import is_whole
from ..runs.outputs import claim, command_line, occupied, output_folder
from ..runs.roles import Role
from ..runs.run import MANIFEST, StageRun
from ..runs.schemas import size_of, size_recorded
from ..runs.states import BEST, EARLY
from ..runs.weights import description as describe_network
from ..settings.families import Family, kind_of
from ..system.compile import eager_mode
from ..system.precision import Policy
from . import loop
from .sample_evaluator import SampleEvaluator, in_section_metrics
from .start import Start, open_start
from .task import Task
from .tasks.settings import GeneratorTraining, LatentTraining

_OUTPUTS = ["final/model.safetensors", "final/config.json"]


class GeneratorTask(Task, Protocol):
    """A `Task` whose network is a generator."""

    @property
    def network(self) -> nn.Module: ...

    def generator(self, sampling: Any) -> Generator:
        """Return the network in training as sampling sees it."""


class Kind(ABC):
    """A kind of generator: what the training of each has of its own.

    noun: the generator, in words. role: its role. families: those of its networks.
    """

    noun: ClassVar[str]
    role: ClassVar[Role]
    families: ClassVar[Mapping[str, Family]]

    def __init__(self, config: Any) -> None:
        self.config = config

    def data(self, policy: Policy) -> TrainingData:
        """Open what it is trained on."""
        config: GeneratorTraining = self.config
        return training_data(config.latents, config, policy, config.label_dropout, config.conditioning)

    def start(self, inputs: dict[str, Any], folder: Path) -> Start | None:
        """Open what it starts from, if anything, and add it to the inputs of the stage in `folder`."""
        return open_start(self.role, self.config, inputs, folder)

    @abstractmethod
    def network(self, data: TrainingData, autoencoder: Autoencoder) -> Any:
        """Return the config of the network. Raises ConfigError for settings that do not fit the data."""

    @abstractmethod
    def sampling(self, data: TrainingData) -> Any:
        """Return how samples are drawn to be evaluated, a dataclass. Raises ConfigError for what it cannot do."""

    @abstractmethod
    def task(self, network: Any, latents: LatentSets, autoencoder: Autoencoder, policy: Policy) -> GeneratorTask:
        """Return what is trained."""

    @abstractmethod
    def describe(self, network: Any) -> Mapping[str, Any]:
        """Return what sampling needs beside the weights, JSON."""

    @abstractmethod
    def save(self, network: Any, folder: Path, extra: dict[str, Any]) -> None:
        """Write the network's folder."""

    @abstractmethod
    def sample_flags(self, data: TrainingData) -> str | None:
        """Return the flags of `ldm sample` to propose; None where no images can be drawn."""


def train_generator(
    config: LatentTraining, kind: Kind, progress: Progress, shard: bool = False, label: str | None = None
) -> Outcome:
    """Train a generator on a run's latents, or on its images where the autoencoder keeps pixels.

    shard: whether each process holds its part of the network only. label: of the folder, of kinds that have several.
    """
    folder = output_folder(config, label)
    with occupied(folder, config.machine, config.train) as policy:
        data = kind.data(policy)
        autoencoder = cache(lambda: load_autoencoder(data.autoencoder, policy).network)
        network = cache(lambda: kind.network(data, autoencoder()))
        evaluator = sampling = None
        # A damaged autoencoder and wrong settings are refused before anything is discarded; where the training is
        # finished, nothing will be, and nothing need be loaded.
        if config.replace or not _is_trained(folder, config):
            network()
            if config.metrics.every:
                with in_section_metrics():
                    sampling = kind.sampling(data)
                evaluator = SampleEvaluator(config, config.metrics, data, sampling.recorded, policy, progress)
        start = kind.start(inputs := data.inputs(folder), folder)
        work = claim(folder, config, inputs, progress)
        flags = kind.sample_flags(data)
        next_commands = [] if flags is None else [f"{command_line('sample', config)} {flags}"]
        if work.complete:
            return Outcome(folder, already_complete=True, next_commands=next_commands)

        # Train, and keep the best state, and an early one.
        sets = data.read(policy, progress, config.reading)
        task = kind.task(network(), sets, autoencoder(), policy)
        if start is not None:
            start.load(task.network, data.conditioning.row_names, progress)
        description = {**kind.describe(network()), **_description(data)}
        if processes.world().is_main:
            family, config_of_network = kind_of(network(), kind.families), network().model_dump(mode="json")
            write_outline(folder, describe_network(family, config_of_network, **description), inputs)
        state, early = (KeptState(work, partial(kind.save, task.network), description, name) for name in (BEST, EARLY))
        if evaluator is not None:
            evaluator.start(task.generator(sampling), task.validate, state)
        plan = loop.Plan(**config.train.model_dump(), seed=config.seed, picture_every=config.preview.every)
        metadata = loop.train(task, plan, policy, folder, progress, evaluator, keep_early=partial(early.save, found={}))

        # Write what is trained; of a sharded network, each process its part.
        if not (processes.world().is_main or shard):
            return Outcome(folder)
        with eager_mode():
            metadata |= description | {"validation_loss": task.validate()["val_loss"]}
        kind.save(task.network, folder / "final", description)
        if not processes.world().is_main:
            return Outcome(folder)
        work.commit(_OUTPUTS, metadata)

    best = open_kept(folder, work.command, BEST) if state.is_there() else None
    size = f"{sum(p.numel() for p in task.network.parameters()) / 1e6:.1f} M parameters"
    return _outcome(folder, {kind.noun: size}, metadata, best, next_commands)


def _outcome(
    folder: Path,
    network: Mapping[str, str],
    metadata: Mapping[str, Any],
    best: StageRun | None,
    next_commands: list[str],
) -> Outcome:
    """Return what the command shows of a trained network, and of its best state, if that was kept."""
    summary = {
        **network,
        "images seen": f"{metadata['images_seen']:,}",
        "validation loss": f"{metadata['validation_loss']:.4f}",
    }
    if best is not None:
        summary["best"] = described(best)
        if best.metadata["images_seen"] < metadata["images_seen"]:
            next_commands = [*next_commands, *(f"{command} --checkpoint best" for command in next_commands)]
    pictures = [*sorted((folder / "samples").glob("*.png"))[-1:], folder / "loss.png"]
    return Outcome(folder, summary=summary, pictures=pictures, next_commands=next_commands)


def _is_trained(folder: Path, config: LatentTraining) -> bool:
    """Return whether a folder holds a training that needs no more images."""
    if not is_whole(folder, config.kind):
        return False
    recorded_config: dict[str, Any] = files.read_json(folder / MANIFEST)["config"]
    trained = recorded_config.get("train", {})
    return config.how_to_go_on(trained, "") is None or trained.get("images", 0) >= config.train.images


def _description(data: TrainingData) -> dict[str, Any]:
    """Return what sampling needs beside the weights of a generator of any kind."""
    return {
        **recorded(data.conditioning),
        "latent_shape": data.described.metadata["latent_shape"],
        **size_recorded(size_of(data.described.metadata)),
    }
