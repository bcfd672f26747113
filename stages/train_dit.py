"""`ldm train-dit`: latent shards in, a denoiser out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..core import parallel, seeds
from ..core.artifacts import MANIFEST, Artifact
from ..core.autoencoders.interface import Autoencoder
from ..core.conditioning.labels import LabelConditioning
from ..core.data.grid import grid, scale_for
from ..core.data.images import write_png
from ..core.denoisers import registry as denoisers
from ..core.denoisers.dit import DiTConfig
from ..core.generation import Sampling, generate
from ..core.guided import Model
from ..core.precision import Policy, compiling_pays, maybe_compile, uncompiled
from ..core.progress import Outcome, Progress
from ..core.training import loop
from ..core.transfer import sent
from .best import BestState, open_best, told
from .configs import Preview, TrainDiT
from .handover import as_input, claim, command_line, dump, load_autoencoder, occupied, output_folder, training_objective
from .latent_sets import LatentSets, held_out, open_latents, read_latents, training_latents
from .sample_metrics import SampleGauge, open_judge

VALIDATION_SAMPLES = 1024


def run(config: TrainDiT, progress: Progress) -> Outcome:
    """Train a denoiser on a run's latents. Returns where it lies."""
    folder = output_folder(config, "train-dit")
    with occupied(folder, config.machine, config.train) as policy:
        latents, source = open_latents(config.latents, config)
        inputs = {
            "latents": as_input(latents, folder),
            "autoencoder": as_input(source, folder),
        }
        # Before anything is discarded.
        network = network_config(config, latents.facts["latent_shape"], len(latents.facts["class_names"]))
        to_do = config.replace or not (folder / MANIFEST).exists()
        judge = open_judge(config, latents, source, policy, progress) if config.metrics.every and to_do else None
        work = claim(folder, "train-dit", config, inputs)
        next_commands = [command_line("sample", config) + f" --class 0 --cfg {3 if config.label_dropout else 1}"]
        if work.complete:
            return Outcome(folder, already_complete=True, next_commands=next_commands)
        sets = read_latents(latents, config.reading, policy.device)
        task = DenoisingTask(config, network, sets, load_autoencoder(source, policy).network, policy)
        state = BestState(work, task.network, _description(config, latents))
        gauge = None
        if judge is not None:
            real = judge.look_at_reference(folder, progress)
            gauge = SampleGauge(judge, task.model(), real, task.validate, state, progress)
        facts = loop.train(task, _plan(config), policy, folder, progress, gauge)
        if not (parallel.world().leads or config.train.shard):
            return Outcome(folder)
        with uncompiled():
            facts |= _description(config, latents) | {"validation_loss": task.validate()["val_loss"]}
        denoisers.save(task.network, folder / "final", _description(config, latents))
        if not parallel.world().leads:
            return Outcome(folder)
        work.commit(["final/model.safetensors", "final/config.json"], facts)
    summary = {
        "denoiser": f"{sum(p.numel() for p in task.network.parameters()) / 1e6:.1f} M parameters",
        "images seen": f"{facts['images_seen']:,}",
        "validation loss": f"{facts['validation_loss']:.4f}",
    }
    if state.is_there():
        best = open_best(folder, work.identity.command)
        summary["best"] = told(best)
        if best.facts["images_seen"] < facts["images_seen"]:
            next_commands.append(f"{next_commands[0]} --checkpoint best")
    pictures = [*sorted((folder / "samples").glob("*.png"))[-1:], folder / "loss.png"]
    return Outcome(folder, summary=summary, pictures=pictures, next_commands=next_commands)


def _plan(config: TrainDiT) -> loop.Plan:
    return loop.Plan(**config.train.model_dump(), seed=config.seed, picture_every=config.preview.every)


def network_config(config: TrainDiT, latent_shape: Sequence[int], num_classes: int) -> DiTConfig:
    """Return the network that the settings and the latents ask for. Raises ConfigError if they do not go together."""
    channels, *size = latent_shape
    settings = {**dump(config.model), "latent_channels": channels, "latent_size": tuple(size)}
    settings |= {"num_classes": num_classes, "label_dropout": config.label_dropout}
    settings |= {"learn_sigma": config.diffusion.learn_variance}
    del settings["checkpointing"]
    return DiTConfig(**{**denoisers.preset(settings.pop("preset")), **settings})


def _description(config: TrainDiT, latents: Artifact) -> dict[str, Any]:
    """What sampling needs to know beside the weights."""
    return {
        "diffusion": config.diffusion.model_dump(mode="json"),
        "time_convention": "t = 0 is data, t = 1 is noise",
        "label_dropout": config.label_dropout,
        "class_names": latents.facts["class_names"],
        "latent_shape": latents.facts["latent_shape"],
        "image_size": latents.facts["image_size"],
    }


class DenoisingTask:
    """Denoising of class-labelled latents, as `core.training.loop` trains it. autoencoder: None draws no previews."""

    def __init__(
        self, config: TrainDiT, network: DiTConfig, latents: LatentSets, autoencoder: Autoencoder | None, policy: Policy
    ) -> None:
        self.config, self.policy, self.autoencoder, self.latents = config, policy, autoencoder, latents
        self.num_samples = len(self.latents.train)
        self.labels = LabelConditioning(len(self.latents.class_names), has_null=config.label_dropout > 0)
        self.objective = training_objective(config.diffusion)

        seeds.seed_everything(config.seed, "denoiser weights")
        # What is to be sharded goes to the device part by part, which need not hold all of it.
        shards = config.train.shard and parallel.world().size > 1
        built = denoisers.build(network)
        self.network = built if shards else built.to(policy.device)
        self.network.checkpointing = config.model.checkpointing
        maybe_compile(self.network, self._is_compiled(), policy.device)
        self.modules: nn.Module = self.network
        self.averaged: nn.Module = self.network
        self.players: dict[str, nn.Module] = {"denoiser": self.network}
        self.heeds_verdicts = False

    def _is_compiled(self) -> bool:
        """Whether to compile: what was asked for, else where the training as a whole is long enough for it.

        Not what is left of it: a resumed training must go on in the arithmetic that it began in.
        """
        if self.config.machine.compile is not None:
            return self.config.machine.compile
        return compiling_pays(self.network.training_flops * self.config.train.images, self.policy.device)

    def load(self, batch: loop.Batch) -> tuple[torch.Tensor, ...]:
        """Return latents, noise, times and labels; all draws follow from the seed and the stream positions."""
        seed, positions, train = self.config.seed, batch.positions, self.latents.train
        x0 = training_latents(train, batch.samples, seed, positions)
        noise = seeds.normal(seed, "noise", positions, train.shape)
        t = self.objective.draw_times(seeds.uniform(seed, "time", positions))
        labels = torch.from_numpy(train.labels[batch.samples])
        dropped = seeds.uniform(seed, "label dropout", positions)
        labels = self.labels.drop(labels, dropped, self.config.label_dropout)
        return x0, noise, t, labels

    def split(self, data: tuple[torch.Tensor, ...], parts: int) -> list[Any]:
        return list(zip(*(tensor.chunk(parts) for tensor in data), strict=True))

    def loss(self, player: str, data: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self._errors(data).mean(), {}

    def stepped(self, accepted: bool) -> None:
        """Nothing but the weights changes with a step."""

    def validate(self) -> dict[str, float]:
        """Return the loss on held-out latents, at times that cover the schedule evenly; see `held_out`."""
        total, count = 0.0, 0
        for batch in held_out(self.latents.val, VALIDATION_SAMPLES):
            t = self.objective.draw_times(batch.evenly)
            with torch.no_grad(), self.policy.autocast():
                total += float(self._errors((batch.x0, batch.noise, t, batch.labels)).sum())
            count += len(t)
        return {"val_loss": total / count}

    def picture(self, folder: Path, images_seen: int) -> None:
        """Write the grid of previews: one row per class, always the same seeds."""
        images, names = draw_preview(self.model(), list(self.latents.class_names), self.config.preview, self.policy)
        if not parallel.world().leads:  # It was there for its part of the network.
            return
        (folder / "samples").mkdir(exist_ok=True)
        picture = grid(images, columns=self.config.preview.per_class, row_labels=names, scale=scale_for(images))
        write_png(folder / "samples" / f"{images_seen:010d}.png", picture)

    def model(self) -> Model:
        """Return the model as sampling sees it."""
        assert self.autoencoder is not None, "without one there is nothing to see"
        return Model(
            network=self.network,
            autoencoder=self.autoencoder,
            schedule=self.objective.schedule,
            prediction=self.objective.prediction,
            learned_variance=self.config.diffusion.learn_variance,
            shift=self.objective.shift,
            latent_shape=self.latents.train.shape,
            labels=self.labels,
        )

    def _errors(self, data: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return each sample's weighted squared error, float32 (B,)."""
        x0, noise, t, labels = (sent(tensor, self.policy.device) for tensor in data)
        return self.objective.loss(self.network, x0, noise, t, labels)


def draw_preview(
    model: Model, class_names: list[str], preview: Preview, policy: Policy
) -> tuple[np.ndarray, list[str]]:
    """Draw `per_class` images of the first classes. Returns uint8 (N, H, W, 3), row by row, and the rows' names."""
    shown = min(preview.classes, len(class_names))
    labels = np.repeat(np.arange(shown), preview.per_class)
    indices = np.tile(np.arange(preview.per_class), shown)
    cfg = preview.cfg if model.labels.has_null else 1.0
    sampling = Sampling(steps=min(preview.steps, model.schedule.num_steps), cfg=cfg)
    return generate(model, labels, indices, sampling, policy), class_names[:shown]
