"""A denoiser: the one interface between networks, guidance, editing and samplers."""

from collections.abc import Callable

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


def clipped(denoise: Denoiser, low: float = -1.0, high: float = 1.0) -> Denoiser:
    """Keep every x0 within [low, high]. For pixels: normalised latents have no such bounds, and would shrink."""
    return lambda x_t, t, cond: denoise(x_t, t, cond).clamp(low, high)
