"""A classifier of noisy latents, as the loop trains it."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ... import seeds
from ...denoisers import noisy_classifier
from ...denoisers.noisy_classifier import NoisyClassifier
from ...denoisers.noisy_config import NoisyClassifierConfig
from ...diffusion import times
from ...diffusion.schedules import Schedule, add_noise
from ...latents.dataset import LatentSets, held_out
from ...pipeline.model import forward_process
from ...pipeline.settings import Diffusion
from ...system.precision import Policy
from ...system.transfer import split_batch, to_device
from ...training import loop
from .settings import ClassifierTraining

VALIDATION_SAMPLES = 1024


class NoisyClassifyingTask:
    """Cross-entropy on noisy latents at times drawn evenly, as `core.training.loop` trains it."""

    def __init__(
        self,
        config: ClassifierTraining,
        network: NoisyClassifierConfig,
        latents: LatentSets,
        process: dict[str, Any],
        policy: Policy,
    ) -> None:
        self.seed, self.policy, self.latents = config.seed, policy, latents
        self.num_samples = len(self.latents.train)
        self.schedule: Schedule = forward_process(Diffusion.model_validate(process))
        # The noise levels are those of the denoiser that it will guide.
        seeds.seed_everything(config.seed, "noisy classifier weights")
        self.network = NoisyClassifier(network).to(policy.device)
        self.modules: nn.Module = self.network
        self.averaged: nn.Module = self.network
        self.networks: dict[str, nn.Module] = {"classifier": self.network}
        self.synchronous = False

    def labels(self) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """Return the classes of the latents."""
        return self.latents.labels()

    def load(self, batch: loop.Batch) -> tuple[torch.Tensor, ...]:
        """Return latents, noise, times and labels; all draws follow from the seed and the stream positions."""
        train = self.latents.train
        x0 = train.batch(batch.samples, batch.positions, self.seed)
        noise = seeds.normal(self.seed, "noise", batch.positions, train.shape)
        uniform = seeds.uniform(self.seed, "time", batch.positions)
        return x0, noise, self._times(uniform), train.cond(batch.samples, batch.positions, self.seed)["labels"]

    def split(self, data: tuple[torch.Tensor, ...], parts: int) -> list[Any]:
        return split_batch(data, parts)

    def loss(self, role: str, data: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x0, noise, t, labels = (to_device(tensor, self.policy.device) for tensor in data)
        return F.cross_entropy(self._logits(x0, noise, t), labels), {}

    def after_step(self, accepted: bool) -> None:
        """Nothing but the weights changes with a step."""

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return accuracy on held-out latents over all times, and where t is below a quarter; and the cross-entropy.

        Where no latent is below, those with the least noise replace the quarter.
        """
        right, t, total = [], [], 0.0
        # Logits at times spread evenly over the schedule, each held-out latent at one of them.
        for batch in held_out(self.latents.val, VALIDATION_SAMPLES):
            t.append(self._times(batch.evenly))
            labels = batch.cond["labels"].to(self.policy.device)
            parts = (tensor.to(self.policy.device) for tensor in (batch.x0, batch.noise, t[-1]))
            with self.policy.autocast():
                logits = self._logits(*parts)
            right.append((logits.argmax(1) == labels).cpu())
            total += float(F.cross_entropy(logits, labels, reduction="sum"))

        # Near pure noise any classifier guesses: accuracy at little noise says whether it learned the classes.
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
        # x_t = alpha x0 + sigma eps.
        alpha, sigma = (part.view(-1, 1, 1, 1) for part in self.schedule.alpha_sigma(t))
        return noisy_classifier.logits(self.network, self.schedule, add_noise(x0, noise, alpha, sigma), t)
