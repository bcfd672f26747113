"""A denoiser: the one interface between networks, guidance, editing and samplers."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import predictions
from .conditions import Cond
from .schedules import Schedule
from .times import broadcast, per_sample

Denoiser = Callable[[Tensor, Tensor, Cond], Tensor]
"""(x_t (B, ...), t, cond) → the estimate of x0, in x_t's shape and dtype.

t is a 0-d tensor **on the CPU** when one time holds for the whole batch (what samplers pass: a wrapper may look at it
without waiting for the device), or (B,) on x_t's device.
"""

Network = Callable[[Tensor, Tensor, Cond], Tensor]
"""(x_t (B, ...), t (B,) float32 on x_t's device, cond) → the prediction, (B, ...)."""


def denoiser(network: Network, schedule: Schedule, prediction: str) -> Denoiser:
    """Turn a network into a denoiser. Raises ValueError where the prediction does not suit the schedule."""
    predictions.check(prediction, schedule)

    def denoise(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        output = network(x_t, per_sample(t, x_t), cond).to(x_t.dtype)
        alpha, sigma = schedule.alpha_sigma(broadcast(t, x_t))
        return predictions.to_x0(prediction, output, x_t, alpha, sigma)

    return denoise


def clipped(denoise: Denoiser, mean: Tensor, std: Tensor, dynamic: bool = False) -> Denoiser:
    """Keep the pixels x0 std + mean of every estimate within [-1, 1]. Normalised latents have no such bounds.

    dynamic: where the 99.5th percentile q of a sample's |pixels| is above 1, clip them to [-q, q] and divide by q
    (Saharia et al. 2022, Imagen): guidance that is too strong then loses contrast instead of detail. Guidance belongs
    inside: its results on x0, eps and v are the same only as long as nothing is clipped before.
    """

    def clip(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        pixels = denoise(x_t, t, cond) * std + mean
        largest = torch.ones((), device=pixels.device)
        if dynamic:
            largest = pixels.abs().flatten(1).quantile(0.995, dim=1).clamp(min=1).view(-1, *(1,) * (pixels.ndim - 1))
        return (pixels.clamp(-largest, largest) / largest - mean) / std

    return clip
