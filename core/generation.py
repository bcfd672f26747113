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


_PIXELS_AT_ONCE = 4096  # latent pixels per pass that keep a CPU's matrix units busy
_LARGEST_CHUNK = 64


def check(sampling: Sampling, num_steps: int, has_null: bool) -> None:
    """Refuse settings that a model cannot honour. Raises ConfigError naming the flag.

    num_steps: of the model's schedule. has_null: whether it was trained with a null class.
    """
    if sampling.cfg != 1.0 and not has_null:
        raise ConfigError(
            f"--cfg {sampling.cfg:g} needs a null class, but this denoiser was trained with label dropout 0",
            "use --cfg 1, or train with --label-dropout 0.1",
        )
    if not 1 <= sampling.num_steps <= num_steps:
        raise ConfigError(
            f"--steps {sampling.num_steps} is outside 1 … {num_steps}, the schedule's number of steps",
            "give fewer steps",
        )
    if sampling.eta and sampling.sampler != "ddim":
        raise ConfigError(
            f"--eta {sampling.eta:g} belongs to the DDIM sampler, not {sampling.sampler}", "use --sampler ddim"
        )
    if sampling.variance != Sampling.variance and sampling.sampler != "ddpm":
        raise ConfigError(
            f"variance={sampling.variance} belongs to the DDPM sampler, not {sampling.sampler}", "use --sampler ddpm"
        )


def generate(
    model: Model,
    labels: np.ndarray,
    seed_indices: np.ndarray,
    sampling: Sampling,
    policy: Policy,
    on_step: samplers.OnStep | None = None,
) -> np.ndarray:
    """Draw one image per label and seed, uint8 (B, H, W, 3).

    labels, seed_indices: int64 (B,); a seed index is the seed of all of its image's draws. on_step: called after each
    step, as the samplers say, with latents; for more images than `chunk_size`, once per chunk.

    Matrix products of different heights round differently, so the network always sees chunks of one size, the last
    one filled up: an image is the same to the bit alone, in a batch of 64, or in a run that was interrupted.
    """
    check(sampling, model.schedule.num_steps, model.labels.has_null)
    size = chunk_size(model, policy)
    pieces = []
    for start in range(0, len(labels), size):
        rows = slice(start, start + size)
        count = len(labels[rows])
        filled = np.arange(start, start + size).clip(max=start + count - 1)
        latents = _chunk(model, labels[filled], seed_indices[filled], count, sampling, policy, on_step)
        pieces.append(model.decode(latents, policy)[:count])
    return np.concatenate(pieces)


def chunk_size(model: Model, policy: Policy) -> int:
    """Return how many images the network sees at once: a function of latent size and kind of device only."""
    pixels = model.latent_shape[1] * model.latent_shape[2]
    at_once = _PIXELS_AT_ONCE if policy.device.type == "cpu" else 16 * _PIXELS_AT_ONCE
    return min(max(at_once // pixels, 1), _LARGEST_CHUNK)


@torch.no_grad()
def _chunk(
    model: Model,
    labels: np.ndarray,
    seed_indices: np.ndarray,
    count: int,
    sampling: Sampling,
    policy: Policy,
    on_step: samplers.OnStep | None,
) -> torch.Tensor:
    """Sample the latents of one chunk, of which the first `count` are wanted."""

    def network(x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        with policy.autocast():
            return model.network(x, t, cond).float()

    def noise(purpose: str, step: int) -> torch.Tensor:
        draws = [seeds.normal(int(seed), purpose, [step], model.latent_shape) for seed in seed_indices]
        return torch.cat(draws).to(policy.device)

    def wanted(step: int, time: float, x: torch.Tensor, x0: torch.Tensor) -> None:
        assert on_step is not None, "only then called"
        on_step(step, time, x[:count], x0[:count])

    denoise = denoiser(network, model.schedule, model.prediction)
    if sampling.cfg != 1.0:
        denoise = guidance.classifier_free(
            denoise, sampling.cfg, model.labels.null, sampling.cfg_interval, sampling.cfg_rescale
        )
    grid = times.grid(model.schedule.num_steps, sampling.num_steps, sampling.spacing)
    options: dict[str, Any] = {"on_step": wanted if on_step else None}
    if sampling.sampler == "ddim":
        options |= {"eta": sampling.eta}
    elif sampling.sampler == "ddpm":
        options |= {"variance": sampling.variance}
    return samplers.SAMPLERS[sampling.sampler](
        denoise,
        noise("initial noise", 0),
        model.schedule,
        grid,
        torch.from_numpy(labels).to(policy.device),
        noise=lambda step: noise("sampler noise", step),
        **options,
    )
