"""`ldm train-classifier --noisy`: noisy latents, or pixels, in, a classifier to guide samples by out."""

from typing import Any

from ...core.denoisers import noisy_classifier
from ...core.denoisers.noisy_config import NoisyClassifierConfig
from ...core.denoisers.settings import NOISY, NoisyClassifierModel
from ...core.distributed import processes
from ...core.errors import ConfigError, DataError
from ...core.pipeline.loading import diffusion_of, open_denoiser
from ...core.pipeline.settings import Diffusion
from ...core.pipeline.training_data import training_data
from ...core.progress import Outcome, Progress
from ...core.runs.inputs import own_folders
from ...core.runs.outputs import claim, command_line, occupied
from ...core.runs.roles import DENOISER, NOISY_CLASSIFIER
from ...core.runs.run import MANIFEST, StageRun
from ...core.training import loop
from ...core.training.start import open_start
from ...core.training.tasks.noisy_classifying import NoisyClassifyingTask
from ..configs import TrainClassifier


def run(config: TrainClassifier, progress: Progress) -> Outcome:
    """Train a classifier of a run's noisy latents. Returns its folder."""
    folder = config.root / NOISY
    with occupied(folder, config.machine, config.train) as policy:
        data = training_data(config.latents, config, policy)
        latents = data.described
        if len(data.conditioning.class_names) < 2:
            raise DataError(f"{latents.path} has one class: a classifier needs two or more", "encode labelled images")
        process = noise_of(config)
        network = network_config(config.noisy_model, latents)
        start = open_start(NOISY_CLASSIFIER, config, inputs := data.inputs(folder), folder)
        work = claim(folder, _with_process(config, process), inputs, progress, kind=NOISY)
        next_commands = [command_line("sample", config) + " --classifier-scale 2"]
        if work.complete:
            return Outcome(folder, already_complete=True, next_commands=next_commands)
        task = NoisyClassifyingTask(config, network, data.read(policy, progress), process, policy)
        if start is not None:
            start.load(task.network, latents.metadata["class_names"], progress)
        plan = loop.Plan(**config.train.model_dump(), seed=config.seed)
        metadata = loop.train(task, plan, policy, folder, progress)
        if not processes.world().is_main:
            return Outcome(folder)
        metadata |= {"accuracy": task.validate(), "diffusion": process}
        metadata |= {name: latents.metadata[name] for name in ("class_names", "latent_shape")}
        names = noisy_classifier.save(task.network, folder / "final")
        work.commit([f"final/{name}" for name in names], metadata)
    summary = {
        "validation accuracy": f"{metadata['accuracy']['val_accuracy']:.1%} over all noise levels, "
        f"{metadata['accuracy']['val_accuracy_least_noise']:.1%} in the quarter with the least noise"
    }
    return Outcome(folder, summary=summary, pictures=[folder / "loss.png"], next_commands=next_commands)


def noise_of(config: TrainClassifier) -> dict[str, Any]:
    """Return the forward process to classify under: the given one, else the run's denoiser's, else the default."""
    there = config.denoiser or any((folder / MANIFEST).exists() for folder in own_folders(DENOISER, config.root))
    known = (diffusion_of(open_denoiser(config.denoiser, config)) if there else Diffusion()).model_dump()
    given = config.noisy_model.model_dump()
    names = ("schedule", "num_steps", "zero_terminal_snr")
    return {name: known[name] if given[name] is None else given[name] for name in names}


def _with_process(config: TrainClassifier, process: dict[str, Any]) -> TrainClassifier:
    """Return the settings with the forward process set, so that a denoiser trained later does not change them."""
    return config.model_copy(update={"noisy_model": config.noisy_model.model_copy(update=process)})


def network_config(model: NoisyClassifierModel, latents: StageRun) -> NoisyClassifierConfig:
    """Return the network that the settings and the latents ask for. Raises ConfigError if they do not fit together."""
    channels, size, width = latents.metadata["latent_shape"]
    if size != width:
        raise ConfigError(f"{latents.path} has latents of {size} x {width}", "it classifies squares alone")
    return NoisyClassifierConfig(
        latent_channels=channels,
        latent_size=size,
        num_classes=len(latents.metadata["class_names"]),
        width=model.width,
        depth=model.depth,
        heads=model.heads,
        patch_size=model.patch_size,
    )
