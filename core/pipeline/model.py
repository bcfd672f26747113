"""From a trained model and the settings of guidance to the denoiser that a sampler calls."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..autoencoders.codec import Autoencoder
from ..conditioning.conditioning import Conditioning, Request, unconditional
from ..denoisers.network import DenoiserNetwork
from ..diffusion import conditions, guidance, predictions, times
from ..diffusion.conditions import Cond
from ..diffusion.denoisers import Denoiser, denoiser
from ..diffusion.guidance import LogProb
from ..diffusion.schedules import Schedule, schedule
from ..diffusion.variance import SplitOutput
from ..errors import ConfigError
from ..images.decode import as_tensor, as_uint8
from ..system.memory import equal_chunks
from ..system.precision import Policy
from .caching import CachedBlocks
from .settings import Diffusion, Student

_PIXELS_DECODED = 1 << 20  # of images, at once: 16 of 256 x 256, whose maps in a decoder for them take 1 GB each


def forward_process(diffusion: Diffusion) -> Schedule:
    """Return the noise schedule that the settings name."""
    return schedule(diffusion.schedule, diffusion.num_steps, diffusion.zero_terminal_snr)


def sampling_times(diffusion: Diffusion, steps: int, spacing: str = "trailing", shift: float | None = None) -> Tensor:
    """Return the times of so many steps of sampling, shifted as the training's unless another shift is given."""
    if diffusion.most_steps == 1:
        spacing = "trailing"  # which begins at the one time
    forward = forward_process(diffusion)
    grid = times.grid(forward.num_steps, steps, spacing)
    grid = times.shift(grid, diffusion.shift if shift is None else shift)
    return grid * predictions.latest_time(diffusion.prediction, forward)


@dataclass(frozen=True)
class Model:
    """A trained latent diffusion model, and what may guide it.

    diffusion: what the network was trained to do. student: what it was distilled to do, if it was. weak: a
    worse model of the same latents, for autoguidance.
    classifier: of noisy latents, x_t, t (B,) and the condition → its log-probability (B,).
    """

    network: DenoiserNetwork
    autoencoder: Autoencoder
    diffusion: Diffusion
    latent_shape: tuple[int, int, int]
    conditioning: Conditioning
    student: Student | None = None
    weak: "Model | None" = None
    classifier: LogProb | None = None

    @cached_property
    def schedule(self) -> Schedule:
        return forward_process(self.diffusion)

    def shape_at(self, image_size: int | None) -> tuple[int, int, int]:
        """Return (C, h, w) of the latents of images of a size, by default that of training."""
        return self.latent_shape if image_size is None else self.autoencoder.latent_shape(image_size)

    def grid(
        self,
        steps: int,
        spacing: str = "trailing",
        shift: float | None = None,
        shape: tuple[int, int, int] | None = None,
    ) -> Tensor:
        """Return the times of so many steps of sampling, shifted as the training's unless another shift is given.

        shape: of the latents, where it may be another. Of m positions in the place of n, as noisy an image shows more:
        the training's shift is multiplied by √(m / n) (Esser et al. 2024, equation 23).
        """
        if shift is None:
            (_, rows, columns), (_, *trained) = shape or self.latent_shape, self.latent_shape
            shift = self.diffusion.shift * math.sqrt(rows * columns / math.prod(trained))
        return sampling_times(self.diffusion, steps, spacing, shift)

    @torch.no_grad()
    def encode(self, images: np.ndarray, policy: Policy) -> Tensor:
        """Return normalised latents (B, C, h, w), on the device, of images, uint8 (B, H, W, C)."""
        parts = equal_chunks(as_tensor(images), _PIXELS_DECODED // (images.shape[1] * images.shape[2]))
        with policy.autocast():
            return torch.cat([self.autoencoder.encode(part.to(policy.device)).float() for part in parts])

    def decode(self, latents: Tensor, policy: Policy) -> np.ndarray:
        """Return images, uint8 (B, H, W, C), of normalised latents (B, C, h, w)."""
        return decoded(self.autoencoder.decode, latents, self.autoencoder.downsampling, policy)


@torch.no_grad()
def decoded(decode: Callable[[Tensor], Tensor], latents: Tensor, downsampling: int, policy: Policy) -> np.ndarray:
    """Return images, uint8 (B, H, W, C), of what `decode` makes of latents (B, C, h, w), in [-1, 1].

    A few at a time, since a decoder's widest maps take more memory than the whole generator.
    """
    pixels = latents.shape[-2] * latents.shape[-1] * downsampling**2
    parts = equal_chunks(latents, _PIXELS_DECODED // pixels)
    with policy.autocast():
        return np.concatenate([as_uint8(decode(part).float().clamp(-1, 1).cpu()) for part in parts])


@dataclass(frozen=True)
class Guidance:
    """How strongly, at which times and away from what samples are guided; the fields are the options of `ldm sample`.

    away_from: a class, in the place of the null.
    """

    cfg: float = 1.0
    cfg_interval: tuple[float, float] | None = None
    cfg_rescale: float = 0.0
    cfg_channels: int | None = None
    autoguide_scale: float = 1.0
    classifier_scale: float = 0.0
    away_from: str | None = None


@dataclass(frozen=True)
class Guided:
    """A guided denoiser, and arguments of DDPM only: the learned variance, the classifier's gradient."""

    denoise: Denoiser
    for_ddpm: dict[str, Any] = field(default_factory=dict)


def guided(
    model: Model,
    how: Guidance,
    policy: Policy,
    ddpm: bool = False,
    learned_variance: bool = False,
    cache: int = 1,
) -> Guided:
    """Wrap a model's network in the guidance asked for: autoguidance inside, then classifier-free, then a classifier.

    ddpm: the classifier moves the mean of DDPM's steps (Dhariwal & Nichol 2021, algorithm 1) instead of the estimate
    (algorithm 2). learned_variance: return it for DDPM's steps. cache: at which steps the network's middle blocks are
    computed: every n-th, along one path; see `CachedBlocks`.
    """
    for_ddpm: dict[str, Any] = {}
    denoise, split = _bare(model, policy, cache)
    if learned_variance:
        assert split is not None, "the model has learned no variance"
        for_ddpm["variance"] = split.fraction
    if how.autoguide_scale != 1.0:
        assert model.weak is not None, "autoguidance without a weak model"
        weak, _ = _bare(model.weak, policy)
        denoise = guidance.autoguidance(denoise, weak, how.autoguide_scale, how.cfg_interval)
    if how.cfg != 1.0:
        null = _negative(model, how)
        denoise = guidance.classifier_free(denoise, how.cfg, null, how.cfg_interval, how.cfg_rescale, how.cfg_channels)
    if how.classifier_scale:
        gradient = _gradient(model, how, policy)
        if ddpm:
            for_ddpm["gradient"] = gradient
        else:
            denoise = guidance.classifier(denoise, gradient, model.schedule, 1.0)
    return Guided(denoise, for_ddpm)


def _bare(model: Model, policy: Policy, cache: int = 1) -> tuple[Denoiser, SplitOutput | None]:
    """Return a model's denoiser, and what splits its output where that includes the variance."""
    prepare = conditions.once(model.network.prepare)
    cached = CachedBlocks(model.network, cache) if cache > 1 else None
    called = cached or model.network

    def network(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        with policy.autocast():
            output: Tensor = called(x, t, prepare(cond))
        return output.float()

    split = SplitOutput(network) if model.diffusion.learn_variance else None
    denoise = denoiser(split or network, model.schedule, model.diffusion.prediction)

    def in_turn(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        assert cached is not None and t.ndim == 0, "along the grid of a sampler"
        cached.at(float(t))
        return denoise(x_t, t, cond)

    return denoise if cached is None else in_turn, split


def one_condition(conditioning: Conditioning, setting: str, text: str, asks: str | None = None) -> Request:
    """Return the condition that a setting names. Raises ConfigError where that is unknown, or several.

    asks: the setting that asks for such conditions, by default the conditioning's own.
    """
    request = conditioning.request({asks or conditioning.asks: text})
    if len(request.titles) != 1:
        raise ConfigError(f"`{setting}={text}` is {len(request.titles)} conditions", "name one class")
    return request


def _negative(model: Model, how: Guidance) -> Callable[[Cond], Cond]:
    """Return what gives for a condition the one to guide away from: the null, or what was asked for in its place."""
    if how.away_from is None:
        return partial(unconditional, model.conditioning)
    asked = one_condition(model.conditioning, "away_from", how.away_from).cond

    def instead(cond: Cond) -> Cond:
        return {**cond, **{name: row.to(cond[name]).expand_as(cond[name]) for name, row in asked.items()}}

    return instead


def _gradient(model: Model, how: Guidance, policy: Policy) -> guidance.Gradient:
    """Return the scaled gradient of the classifier's log-probability, 0 outside of the interval."""
    classify = model.classifier
    assert classify is not None, "classifier guidance without a classifier"

    def log_prob(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        with policy.autocast():
            return how.classifier_scale * classify(x_t, t, cond)

    everywhere = guidance.gradient_of(log_prob)
    return guidance.within(everywhere, lambda x_t, t, cond: torch.zeros_like(x_t), how.cfg_interval)
