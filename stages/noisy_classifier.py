"""The half of `ldm train-classifier` that is about noisy latents: a classifier to guide samples by."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..core import parallel, seeds
from ..core.artifacts import MANIFEST, Artifact
from ..core.denoisers import noisy_classifier
from ..core.denoisers.noisy_classifier import NoisyClassifier, NoisyClassifierConfig
from ..core.diffusion import times
from ..core.diffusion.schedules import Schedule, add_noise
from ..core.errors import DataError
from ..core.precision import Policy
from ..core.progress import Outcome, Progress
from ..core.training import loop
from ..core.transfer import sent
from .configs import NOISY, Diffusion, NoisyClassifierModel, TrainClassifier
from .handover import as_input, claim, command_line, diffusion_of, forward_process, occupied
from .latent_sets import held_out, open_latents, read_latents, training_latents
from .models import open_denoiser

VALIDATION_SAMPLES = 1024


def train_noisy_classifier(config: TrainClassifier, progress: Progress) -> Outcome:
    """Train a classifier of a run's noisy latents. Returns where it lies."""
    folder = config.root / NOISY
    with occupied(folder, config.machine, config.train) as policy:
        latents, source = open_latents(config.latents, config)
        if len(latents.facts["class_names"]) < 2:
            raise DataError(f"{latents.path} has one class: there is nothing to tell apart", "encode labelled images")
        inputs = {"latents": as_input(latents, folder), "autoencoder": as_input(source, folder)}
        process = noise_of(config)
        network = network_config(config.noisy_model, latents)
        work = claim(folder, "train-classifier", _settled(config, process), inputs, kind=NOISY)
        next_commands = [command_line("sample", config) + " --classifier-scale 2"]
        if work.complete:
            return Outcome(folder, already_complete=True, next_commands=next_commands)
        task = NoisyClassifyingTask(config, network, latents, process, policy)
        plan = loop.Plan(**config.train.model_dump(), seed=config.seed)
        facts = loop.train(task, plan, policy, folder, progress)
        if not parallel.world().leads:
            return Outcome(folder)
        facts |= {"accuracy": task.validate(), "diffusion": process}
        facts |= {name: latents.facts[name] for name in ("class_names", "latent_shape")}
        names = noisy_classifier.save(task.network, folder / "final")
        work.commit([f"final/{name}" for name in names], facts)
    summary = {
        "validation accuracy": f"{facts['accuracy']['val_accuracy']:.1%} over all noise levels, "
        f"{facts['accuracy']['val_accuracy_least_noise']:.1%} in the quarter with the least noise"
    }
    return Outcome(folder, summary=summary, pictures=[folder / "loss.png"], next_commands=next_commands)


def noise_of(config: TrainClassifier) -> dict[str, Any]:
    """Return the forward process to classify under: what was said, else the run's denoiser's, else the default."""
    there = (config.root / "dit" / MANIFEST).exists()
    known = (diffusion_of(open_denoiser(None, config)) if there else Diffusion()).model_dump()
    said = config.noisy_model.model_dump()
    names = ("schedule", "num_steps", "zero_terminal_snr")
    return {name: known[name] if said[name] is None else said[name] for name in names}


def _settled(config: TrainClassifier, process: dict[str, Any]) -> TrainClassifier:
    """Return the settings with the forward process said, so that a denoiser trained later changes nothing."""
    return config.model_copy(update={"noisy_model": config.noisy_model.model_copy(update=process)})


def network_config(model: NoisyClassifierModel, latents: Artifact) -> NoisyClassifierConfig:
    """Return the network that the settings and the latents ask for. Raises ConfigError if they do not go together."""
    channels, size, _ = latents.facts["latent_shape"]
    return NoisyClassifierConfig(
        latent_channels=channels,
        latent_size=size,
        num_classes=len(latents.facts["class_names"]),
        width=model.width,
        depth=model.depth,
        heads=model.heads,
        patch_size=model.patch_size,
    )


class NoisyClassifyingTask:
    """Cross-entropy on noisy latents at times drawn evenly, as `core.training.loop` trains it."""

    def __init__(
        self,
        config: TrainClassifier,
        network: NoisyClassifierConfig,
        latents: Artifact,
        process: dict[str, Any],
        policy: Policy,
    ) -> None:
        self.seed, self.policy = config.seed, policy
        self.latents = read_latents(latents, device=policy.device)
        self.num_samples = len(self.latents.train)
        self.schedule: Schedule = forward_process(Diffusion.model_validate(process))
        seeds.seed_everything(config.seed, "noisy classifier weights")
        self.network = NoisyClassifier(network).to(policy.device)
        self.modules: nn.Module = self.network
        self.averaged: nn.Module = self.network
        self.players: dict[str, nn.Module] = {"classifier": self.network}
        self.heeds_verdicts = False

    def load(self, batch: loop.Batch) -> tuple[torch.Tensor, ...]:
        """Return latents, noise, times and labels; all draws follow from the seed and the stream positions."""
        train = self.latents.train
        x0 = training_latents(train, batch.samples, self.seed, batch.positions)
        noise = seeds.normal(self.seed, "noise", batch.positions, train.shape)
        uniform = seeds.uniform(self.seed, "time", batch.positions)
        return x0, noise, self._times(uniform), torch.from_numpy(train.labels[batch.samples])

    def split(self, data: tuple[torch.Tensor, ...], parts: int) -> list[Any]:
        return list(zip(*(tensor.chunk(parts) for tensor in data), strict=True))

    def loss(self, player: str, data: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x0, noise, t, labels = (sent(tensor, self.policy.device) for tensor in data)
        return F.cross_entropy(self._logits(x0, noise, t), labels), {}

    def stepped(self, accepted: bool) -> None:
        """Nothing but the weights changes with a step."""

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return accuracy on held-out latents over all times, and where t is below a quarter; and the cross-entropy.

        Of so few latents that none is below, those with the least noise stand for the quarter.
        """
        right, t, total = [], [], 0.0
        for batch in held_out(self.latents.val, VALIDATION_SAMPLES):
            t.append(self._times(batch.evenly))
            labels = batch.labels.to(self.policy.device)
            parts = (tensor.to(self.policy.device) for tensor in (batch.x0, batch.noise, t[-1]))
            with self.policy.autocast():
                logits = self._logits(*parts)
            right.append((logits.argmax(1) == labels).cpu())
            total += float(F.cross_entropy(logits, labels, reduction="sum"))
        hits, times = torch.cat(right).float(), torch.cat(t)
        least = times <= max(0.25, float(times.min()))
        return {
            "val_accuracy": float(hits.mean()),
            "val_accuracy_least_noise": float(hits[least].mean()),
            "val_loss": total / len(hits),
        }

    def picture(self, folder: Any, images_seen: int) -> None:
        """A classifier draws nothing."""

    def _times(self, uniform: torch.Tensor) -> torch.Tensor:
        """The schedule's own times, or any on the straight path, which has no table."""
        if self.schedule.variance_preserving:
            return times.on_table(uniform, self.schedule.num_steps).float()
        return times.continuous_times(uniform).float()

    def _logits(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = (part.view(-1, 1, 1, 1) for part in self.schedule.alpha_sigma(t))
        return noisy_classifier.logits(self.network, self.schedule, add_noise(x0, noise, alpha, sigma), t)
