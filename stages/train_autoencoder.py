"""`ldm train-autoencoder`: images in, an autoencoder with measured latents out."""

import shlex
from pathlib import Path
from typing import Any

import torch

from ..core.autoencoders import registry
from ..core.autoencoders.codec import Autoencoder, TrainableCodec
from ..core.autoencoders.statistics import LatentStatistics
from ..core.distributed import processes
from ..core.errors import ConfigError
from ..core.images.decode import as_tensor
from ..core.images.sets import ImageSets, image_sources
from ..core.progress import Outcome, Progress
from ..core.runs.outputs import claim, command_line, occupied, output_folder
from ..core.runs.roles import AUTOENCODER, PHASES
from ..core.runs.run import StageRun
from ..core.runs.schemas import size_recorded
from ..core.system.precision import Policy
from ..core.training import loop
from ..core.training.start import open_start
from ..core.training.tasks.autoencoding import AutoencodingTask, reconstruction_quality, write_pictures
from ..core.training.tasks.phases import in_phases
from .configs import TrainAutoencoder


def run(config: TrainAutoencoder, progress: Progress) -> Outcome:
    """Train an autoencoder, or take a ready one, and measure its latents. Returns its folder.

    Each phase is a stage of its own: finished ones are not trained again, and an interrupted one continues.
    """
    phases = in_phases(config)
    start_from = config.start_from
    for number, phase in enumerate(phases, 1):
        if len(config.phases) > 1:
            progress.note(f"phase {number} of {len(config.phases)}: {config.phases[number - 1]}")
        outcome = _train(phase, start_from, progress)
        start_from = outcome.directory
    return outcome


def _train(config: TrainAutoencoder, start_from: Path | None, progress: Progress) -> Outcome:
    """Train one phase, from the weights of a training that is finished; its recipe names none of this run's."""
    folder, kind = output_folder(config), config.kind
    if config.last_phase is not None:
        config = TrainAutoencoder.model_validate(config.model_dump())  # whichever command it was
        folder, kind = config.root / PHASES / str(config.last_phase), PHASES
    with occupied(folder, config.machine, config.train if config.autoencoder is None else None) as policy:
        ready = _ready(config)
        sources = image_sources(config.data)
        inputs = sources.inputs
        if config.autoencoder is not None:
            fingerprint = registry.fingerprint(config.autoencoder)
            inputs["autoencoder"] = {"path": config.autoencoder.as_posix(), "fingerprint": fingerprint}
        started = config.model_copy(update={"start_from": start_from})
        start = open_start(AUTOENCODER, started, inputs, folder)
        _check_start(started, trained=ready is None)
        work = claim(folder, config, inputs, progress, kind)
        of_pixels = ready is not None and not list(ready.parameters())  # Nothing to compute, nothing to write down.
        next_commands = [command_line("train-denoiser" if of_pixels else "encode", config)]
        if kind == PHASES:
            next_commands = [f"{next_commands[0]} --autoencoder {shlex.quote(str(folder))}"]
        if work.complete:
            return Outcome(folder, already_complete=True, next_commands=next_commands)
        metadata: dict[str, Any] = {"trained": ready is None}
        if ready is not None and (unused := _changed(config)):
            progress.warn(f"nothing of this autoencoder is trained: {', '.join(unused)} has no effect")
        images = sources.read(progress)
        if ready is None:
            task = AutoencodingTask(config, images, policy)
            if start is not None:
                start.load(task.averaged, (), progress)
            metadata |= loop.train(task, _plan(config), policy, folder, progress)
            autoencoder = task.autoencoder
        else:
            autoencoder = ready.to(policy.device)
        if not processes.world().is_main:
            return Outcome(folder)
        if ready is not None:
            write_pictures(autoencoder, images.val, config.pictures, policy, folder, 0)
        if config.part in ("decoder", "head"):
            assert start is not None, "checked above"
            _keep_latents(autoencoder, start.run)
        else:
            _measure_latents(autoencoder, images, policy, progress)
        metadata |= {
            "latent_shape": list(autoencoder.latent_shape(config.data.size)),
            "latent_mean": autoencoder.latent_mean.tolist(),
            "latent_std": autoencoder.latent_std.tolist(),
            **reconstruction_quality(autoencoder, images.val, policy),
        }
        metadata |= {"class_names": list(images.class_names), **size_recorded(config.data.size)}
        registry.save(autoencoder, folder / "final")
        work.commit(sorted(f"final/{path.name}" for path in (folder / "final").iterdir()), metadata)
    summary = {
        "reconstruction": f"PSNR {metadata['val_psnr']:.2f} dB, SSIM {metadata['val_ssim']:.4f} on held-out images",
        "latents": " × ".join(map(str, metadata["latent_shape"])),
    }
    pictures = [path for kind in ("reconstructions", "prior") for path in sorted((folder / kind).glob("*.png"))[-1:]]
    return Outcome(folder, summary=summary, pictures=pictures, next_commands=next_commands)


def _ready(config: TrainAutoencoder) -> Autoencoder | None:
    """Return the given autoencoder, or one with nothing to train; None for one that is trained.

    Called before images are read, which may take long. Raises ConfigError for one that does not take the images' size.
    """
    if config.autoencoder is not None:
        if not config.autoencoder.is_dir():
            raise ConfigError(f"`autoencoder={config.autoencoder}` is not a folder", "give one of a ready autoencoder")
        ready = registry.load(config.autoencoder)
        if ready.decodes_only:
            raise ConfigError(
                f"`autoencoder={config.autoencoder}` only decodes: its encoder was not exported with it",
                "give one with an encoder, as runs/NAME/vqvae/final of the run that it was exported from",
            )
        ready.require_channels(config.data.channels)
        ready.latent_shape(config.data.size)
        return ready
    network = registry.config_of(config.model, config.data.channels)
    with torch.device("meta"):
        outline = registry.build(network)
    outline.latent_shape(config.data.size)
    return None if isinstance(outline.codec, TrainableCodec) else registry.build(network)


def _check_start(config: TrainAutoencoder, trained: bool) -> None:
    """Refuse settings of where a training starts, and of what part it trains, that do not fit together."""
    if not trained and config.phases:
        raise ConfigError("`phases`: this autoencoder is not trained", "leave them out")
    if not trained and config.start_from is not None:
        raise ConfigError(f"`start_from={config.start_from}`: this autoencoder is not trained", "leave it out")
    if config.part != "all" and config.start_from is None:
        raise ConfigError(
            f"`part={config.part}` trains a part of a finished autoencoder", "name that: `start_from=runs/NAME`"
        )
    if config.part == "middle" and config.loss.adversarial_weight:
        raise ConfigError(
            "`part=middle` leaves out the layer by which `loss.adversarial_weight` is scaled",
            "use `loss.adversarial_weight=0`, or `part=decoder`",
        )


def _changed(config: TrainAutoencoder) -> list[str]:
    """List the settings of training and loss that are other than their defaults."""
    sections = {"train": config.train, "loss": config.loss}
    return [
        f"{part}.{name}"
        for part, section in sections.items()
        for name, field in type(section).model_fields.items()
        if getattr(section, name) != field.default
    ]


def _plan(config: TrainAutoencoder) -> loop.Plan:
    every = config.train.validate_every
    return loop.Plan(**config.train.model_dump(), seed=config.seed, picture_every=every)


def _keep_latents(autoencoder: Autoencoder, start: StageRun) -> None:
    """Normalise as the autoencoder that the training started from, whose encoder this one has."""
    before = registry.load(start.path / "final")
    autoencoder.set_statistics(before.latent_mean, before.latent_std)


def _measure_latents(autoencoder: Autoencoder, images: ImageSets, policy: Policy, progress: Progress) -> None:
    """Measure the latents' mean and deviation on the training images and give them to the autoencoder."""
    measured = LatentStatistics(autoencoder.latent_channels)
    progress.start("measuring latents", len(images.train), "images")
    with torch.no_grad():
        for indices, pixels in images.train.in_turn(64):
            batch = as_tensor(pixels).to(policy.device)
            with policy.autocast():
                measured.add(autoencoder.codec.encode(batch).mean)
            progress.update(int(indices[-1]) + 1)
    progress.finish()
    autoencoder.normalise_by(measured)
