"""Denoisers that know the data, the exact E[x0 | x_t] of a normal distribution and of a mixture of two; and noise."""

from collections.abc import Callable

import torch
from torch import Tensor

from ldm.core.diffusion import times
from ldm.core.diffusion.denoisers import Cond, Denoiser
from ldm.core.diffusion.schedules import Schedule


def gaussian(schedule: Schedule, mean: float = 0.0, std: float = 1.0) -> Denoiser:
    """E[x0 | x_t] for x0 ~ N(mean, std²): the prior mean moved by the regression coefficient."""

    def denoise(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        alpha, sigma = schedule.alpha_sigma(times.broadcast(t, x_t))
        return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x_t - alpha * mean)

    return denoise


def gaussian_flow(schedule: Schedule, x: Tensor, t: float, s: float, mean: float, std: float) -> Tensor:
    """Carry x from t to s along the exact probability flow: the standardised x_t does not move."""
    alpha, sigma = schedule.alpha_sigma(torch.tensor([t, s], dtype=torch.float64))
    spread = (alpha**2 * std**2 + sigma**2).sqrt()
    return alpha[1] * mean + spread[1] / spread[0] * (x - alpha[0] * mean)


def mixture(schedule: Schedule, centre: float = 0.9, std: float = 0.4359) -> Denoiser:
    """E[x0 | x_t] for equal parts of N(−centre, std²) and N(centre, std²); by default of unit variance in all."""

    def denoise(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        alpha, sigma = schedule.alpha_sigma(times.broadcast(t, x_t))
        variance = alpha**2 * std**2 + sigma**2
        side = torch.tanh(alpha * centre * x_t / variance)  # P(right | x_t) − P(left | x_t)
        own = alpha * std**2 / variance
        return own * x_t + (1 - own * alpha) * centre * side

    return denoise


def starts(count: int = 5, seed: int = 0) -> Tensor:
    """Standard normal starting points, (count, 1) float64."""
    return torch.randn(count, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draws(shape: tuple[int, ...], seed: int = 1) -> Callable[[int], Tensor]:
    """The fresh noise of a sampler's steps, the same at every call."""
    g = torch.Generator().manual_seed(seed)
    kept = [torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(300)]
    return lambda i: kept[i]
