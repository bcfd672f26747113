"""From labels and seeds to images: the one place where network, schedule, guidance, sampler and decoder meet."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from . import seeds
from .autoencoders.interface import Autoencoder
from .conditioning.labels import LabelConditioning
from .data.images import as_uint8
from .diffusion import guidance, samplers, times
from .diffusion.denoisers import denoiser
from .diffusion.schedules import Schedule
from .errors import ConfigError
from .precision import Policy


class Network(Protocol):
    """What a denoiser family hands to sampling: x_t (B, C, h, w), t (B,), labels (B,) → its prediction."""

    def __call__(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class Model:
    """A trained latent diffusion model."""

    network: Network
    autoencoder: Autoencoder
    schedule: Schedule
    prediction: str
    latent_shape: tuple[int, int, int]
    labels: LabelConditioning

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, policy: Policy) -> np.ndarray:
        """Return images, uint8 (B, H, W, 3), of normalised latents (B, C, h, w)."""
        with policy.autocast():
            return as_uint8(self.autoencoder.decode(latents).float().cpu())


@dataclass(frozen=True)
class Sampling:
    """How images are drawn; the fields mean what the options of `ldm sample` say."""

    sampler: str = "ddim"
    steps: int | None = None
    cfg: float = 1.0
    cfg_interval: tuple[float, float] | None = None
    cfg_rescale: float = 0.0
    eta: float = 0.0
    spacing: str = "trailing"
    variance: str = "posterior"

    @property
    def num_steps(self) -> int:
        """The steps asked for, or the sampler's own number."""
        return self.steps if self.steps is not None else samplers.DEFAULT_STEPS[self.sampler]


def check(model: Model, sampling: Sampling) -> None:
    """Refuse settings that the model cannot honour. Raises ConfigError naming the flag."""
    if sampling.cfg != 1.0 and not model.labels.has_null:
        raise ConfigError(
            f"--cfg {sampling.cfg:g} needs a null class, but this denoiser was trained with label dropout 0",
            "use --cfg 1, or train with --label-dropout 0.1",
        )
    if not 1 <= sampling.num_steps <= model.schedule.num_steps:
        raise ConfigError(
            f"--steps {sampling.num_steps} is outside 1 … {model.schedule.num_steps}, the schedule's number of steps",
            "give fewer steps",
        )
    if sampling.eta and sampling.sampler != "ddim":
        raise ConfigError(
            f"--eta {sampling.eta:g} belongs to the DDIM sampler, not {sampling.sampler}", "use --sampler ddim"
        )


@torch.no_grad()
def generate(
    model: Model,
    labels: np.ndarray,
    seed_indices: np.ndarray,
    sampling: Sampling,
    policy: Policy,
    on_step: samplers.OnStep | None = None,
) -> np.ndarray:
    """Draw one image per label and seed, uint8 (B, H, W, 3).

    seed_indices: int64 (B,), each the seed of all of its image's draws. on_step: called after each step, as
    the samplers say, with latents.
    """
    check(model, sampling)

    def network(x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        with policy.autocast():
            return model.network(x, t, cond).float()

    def fresh_noise(step: int) -> torch.Tensor:
        draws = [seeds.normal(int(s), "sampler noise", [step], model.latent_shape)[0] for s in seed_indices]
        return torch.stack(draws).to(policy.device)

    denoise = denoiser(network, model.schedule, model.prediction)
    if sampling.cfg != 1.0:
        denoise = guidance.classifier_free(
            denoise, sampling.cfg, model.labels.null, sampling.cfg_interval, sampling.cfg_rescale
        )
    x = torch.stack([seeds.normal(int(s), "initial noise", [0], model.latent_shape)[0] for s in seed_indices])
    cond = torch.from_numpy(labels).to(policy.device)
    grid = times.grid(model.schedule.num_steps, sampling.num_steps, sampling.spacing)
    options: dict[str, Any] = {"on_step": on_step}
    if sampling.sampler == "ddim":
        options |= {"eta": sampling.eta, "noise": fresh_noise}
    elif sampling.sampler == "ddpm":
        options |= {"variance": sampling.variance, "noise": fresh_noise}
    latents = samplers.SAMPLERS[sampling.sampler](denoise, x.to(policy.device), model.schedule, grid, cond, **options)
    return model.decode(latents, policy)
