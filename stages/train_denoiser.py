"""`ldm train-denoiser`: latents in, or the pixels of images, a denoiser out."""

from functools import partial
from typing import Any

from ..core.conditioning.registry import recorded
from ..core.denoisers import registry as denoisers
from ..core.distributed import processes
from ..core.pipeline.best import BestState, described, open_best
from ..core.pipeline.drawing import DenoisingGenerator
from ..core.pipeline.generation import DEFAULT_CFG, Sampling, check
from ..core.pipeline.loading import load_autoencoder
from ..core.pipeline.training_data import TrainingData, training_data
from ..core.progress import Outcome, Progress
from ..core.runs.outputs import claim, command_line, occupied, output_folder
from ..core.runs.roles import DENOISER
from ..core.runs.run import MANIFEST
from ..core.system.compile import eager_mode
from ..core.training import loop
from ..core.training.sample_evaluator import SampleEvaluator, in_section_metrics
from ..core.training.start import open_start
from ..core.training.tasks.denoising import DenoisingTask, network_config
from .configs import TrainDenoiser


def run(config: TrainDenoiser, progress: Progress) -> Outcome:
    """Train a denoiser on a run's latents, or on its images where the autoencoder keeps pixels."""
    folder = output_folder(config)
    with occupied(folder, config.machine, config.train) as policy:
        data = training_data(config.latents, config, policy, config.label_dropout, config.conditioning != "none")
        source = data.autoencoder
        # Refuse wrong settings before anything is discarded.
        network = network_config(config, data.described.metadata["latent_shape"], data.conditioning)
        evaluator = None
        if config.metrics.every and (config.replace or not (folder / MANIFEST).exists()):
            sampling = _sampling_to_evaluate(config, data)
            evaluator = SampleEvaluator(config, config.metrics, data, vars(sampling), policy, progress)
        start = open_start(DENOISER, config, inputs := data.inputs(folder), folder)
        work = claim(folder, config, inputs)
        asked = " --class 0" if data.conditioning.class_names else ""
        sample = command_line("sample", config) + f"{asked} --cfg {3 if data.conditioning.has_null else 1}"
        next_commands = [sample] if config.diffusion.draws else []
        if work.complete:
            return Outcome(folder, already_complete=True, next_commands=next_commands)
        sets = data.read(policy, progress, config.reading)
        task = DenoisingTask(config, network, sets, load_autoencoder(source, policy).network, policy)
        if start is not None:
            start.load(task.network, data.conditioning.class_names, progress)
        description = _description(config, data)
        state = BestState(work, partial(denoisers.save, task.network), description)
        if evaluator is not None:
            evaluator.start(DenoisingGenerator(task.model(), sampling, policy), task.validate, state)
        metadata = loop.train(task, _plan(config), policy, folder, progress, evaluator)
        if not (processes.world().is_main or config.train.shard):
            return Outcome(folder)
        with eager_mode():
            metadata |= description | {"validation_loss": task.validate()["val_loss"]}
        denoisers.save(task.network, folder / "final", description)
        if not processes.world().is_main:
            return Outcome(folder)
        work.commit(["final/model.safetensors", "final/config.json"], metadata)
    summary = {
        "denoiser": f"{sum(p.numel() for p in task.network.parameters()) / 1e6:.1f} M parameters",
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


def _sampling_to_evaluate(config: TrainDenoiser, data: TrainingData) -> Sampling:
    """Return how samples are drawn to be evaluated. Raises ConfigError for what this denoiser will not support."""
    wanted, has_null = config.metrics, data.conditioning.has_null
    with in_section_metrics():
        sampling = Sampling(
            cfg=(DEFAULT_CFG if has_null else 1.0) if wanted.cfg is None else wanted.cfg,
            sampler=wanted.sampler,
            steps=wanted.steps or None,
        ).on(config.diffusion.most_steps)
        check(sampling, config.diffusion, has_null, data.described.metadata["latent_shape"][0])
    return sampling


def _plan(config: TrainDenoiser) -> loop.Plan:
    return loop.Plan(**config.train.model_dump(), seed=config.seed, picture_every=config.preview.every)


def _description(config: TrainDenoiser, data: TrainingData) -> dict[str, Any]:
    """Return what sampling needs beside the weights."""
    return {
        "diffusion": config.diffusion.model_dump(mode="json"),
        "time_convention": "t = 0 is data, t = 1 is noise",
        "label_dropout": config.label_dropout if data.conditioning.has_null else 0.0,
        **recorded(data.conditioning),
        **{name: data.described.metadata[name] for name in ("latent_shape", "image_size")},
    }
