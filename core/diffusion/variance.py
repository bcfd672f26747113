"""The variance of a reverse step: its two bounds, learned ones between them, and the likelihood they give, in bits.

Nichol & Dhariwal 2021 (improved DDPM). From time t back to s, β is the variance of x_t given x_s, at the scale of x_t
(β_t of the table on unit strides), β̃ that of x_s given x_t and x0. A learned variance is a fraction of the way from
log β̃ to log β.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .conditions import Cond
from .schedules import Schedule, precision

Fraction = Callable[[Tensor, Tensor, Cond], Tensor]
"""(x_t (B, ...), t as a denoiser's, cond) → how far the variance lies from β̃ (0) to β (1) in log space, as x_t."""

NATS_PER_BIT = math.log(2)


def step_variances(alpha_t: Any, sigma_t: Any, alpha_s: Any, sigma_s: Any) -> tuple[Any, Any]:
    """Return (β, β̃) of the step from t to s < t, for floats or float64 tensors, on any path.

    β = sigma_t² − (alpha_t / alpha_s)² sigma_s², which is 1 − ᾱ_t / ᾱ_s where variance preserving;
    β̃ = β sigma_s² / sigma_t².
    """
    beta = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
    return beta, beta * sigma_s**2 / sigma_t**2


def interpolate(fraction: Tensor, log_beta: Any, log_posterior: Any) -> Tensor:
    """Return the log-variance v log β + (1 − v) log β̃ (equation 15)."""
    return fraction * log_beta + (1 - fraction) * log_posterior


class SplitOutput:
    """Share one pass of a network with 2C output channels between the denoiser (the first C) and the variance.

    Itself the network of C channels for `denoiser`; `fraction` then gives the variance from the same pass, mapped
    from [-1, 1] to [0, 1] as in the paper's code. In the doubled batch of classifier-free guidance it is the
    conditional half's, which comes first, as in the DiT repository.
    """

    def __init__(self, network: Callable[[Tensor, Tensor, Cond], Tensor]) -> None:
        self.network = network
        self.rest: Tensor | None = None

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        prediction, self.rest = self.network(x_t, t, cond).chunk(2, dim=1)
        return prediction

    def fraction(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the fraction of the pass just made, for the len(x_t) samples that came first in it."""
        assert self.rest is not None, "call the denoiser before its variance"
        return (self.rest[: len(x_t)].to(x_t.dtype) + 1) / 2


def vlb_bits(
    schedule: Schedule, x0: Tensor, x_t: Tensor, t: Tensor, x0_hat: Tensor, fraction: Tensor, levels: int | None = None
) -> Tensor:
    """Return the variational bound's term at t, in bits per dimension, (B,).

    KL(q(x_s | x_t, x0) ‖ p(x_s | x_t)) with s = t − 1/T, and at t = 1/T the negative log-likelihood of x0: of a
    density, or with `levels` = 256 of 8-bit pixels over [-1, 1]. T times its mean over the table's times, plus
    `prior_bits`, is the bound. For L_simple + 0.001 L_vlb pass x0_hat detached, so that the bound trains the
    variance alone.

    x0, x_t, x0_hat: (B, ...). t: (B,), times of the table, 1/T … 1. fraction: broadcasts against x0. At t = 1/T, where
    β̃ is 0, that of the next step is the lower bound, as in the paper. The result is float64 where that exists.
    """
    # Steps as whole numbers: t − 1/T in float32 would miss the table's time.
    step = (t.to(precision(t.device)) * schedule.num_steps).round().view(-1, *(1,) * (x0.ndim - 1))
    alpha_t, sigma_t = schedule.alpha_sigma(step / schedule.num_steps)
    alpha_s, sigma_s = schedule.alpha_sigma((step - 1) / schedule.num_steps)

    # log β̃ of q, and v log β + (1 − v) log β̃ of p. β̃ of the first step is 0: the next one's is taken for it.
    beta, posterior = step_variances(alpha_t, sigma_t, alpha_s, sigma_s)
    log_posterior = torch.where(step > 1, posterior, _first_posterior(schedule)).log()
    log_variance = interpolate(fraction, beta.log(), log_posterior)

    # Both means hold x_t in the same amount: their difference is that of the x0s.
    weight = alpha_s * beta / sigma_t**2
    keep = alpha_t / alpha_s * sigma_s**2 / sigma_t**2
    kl = gaussian_kl_bits(weight * x0, log_posterior, weight * x0_hat, log_variance)

    # The first step's term is the likelihood of the data themselves.
    mean = keep * x_t + weight * x0_hat
    nll = gaussian_nll_bits(x0, mean, log_variance, levels)
    return torch.where(step > 1, kl, nll).flatten(1).mean(1)


def prior_bits(schedule: Schedule, x0: Tensor) -> Tensor:
    """Return KL(q(x_1 | x0) ‖ N(0, 1)), the information that noise keeps of the data, in bits per dimension, (B,)."""
    alpha, sigma = schedule.alpha_sigma(torch.ones((), dtype=torch.float64))
    zero = torch.zeros((), dtype=torch.float64)
    return gaussian_kl_bits(alpha * x0, 2 * sigma.log(), zero, zero).flatten(1).mean(1)


def gaussian_kl_bits(mean_q: Tensor, log_variance_q: Tensor, mean_p: Tensor, log_variance_p: Tensor) -> Tensor:
    """Return KL(q ‖ p) of normal distributions, elementwise, in bits."""
    # ½ (log(σ_p² / σ_q²) − 1 + σ_q² / σ_p² + (μ_q − μ_p)² / σ_p²)
    difference = log_variance_p - log_variance_q
    distance = (mean_q - mean_p) ** 2 * torch.exp(-log_variance_p)
    return 0.5 * (difference - 1 + torch.exp(-difference) + distance) / NATS_PER_BIT


def gaussian_nll_bits(x: Tensor, mean: Tensor, log_variance: Tensor, levels: int | None = None) -> Tensor:
    """Return −log2 p(x) of a normal distribution, elementwise.

    Its density; or, with `levels`, the mass of the bin of x among that many even levels over [-1, 1], the outermost
    bins reaching to infinity (Ho et al. 2020, equation 13). Masses below 1e-12 count as 1e-12.
    """
    centred = (x - mean) * torch.exp(-0.5 * log_variance)
    # ½ (((x − μ) / σ)² + log σ² + log 2π)
    if levels is None:
        return 0.5 * (centred**2 + log_variance + math.log(2 * math.pi)) / NATS_PER_BIT

    # Φ((x + 1/(levels − 1) − μ) / σ) − Φ((x − 1/(levels − 1) − μ) / σ), the outermost bins open.
    half_bin = torch.exp(-0.5 * log_variance) / (levels - 1)
    above = torch.special.ndtr(centred + half_bin).masked_fill(x > 1 - 1e-3, 1.0)
    below = torch.special.ndtr(centred - half_bin).masked_fill(x < -1 + 1e-3, 0.0)
    return -torch.log2((above - below).clamp(min=1e-12))


def _first_posterior(schedule: Schedule) -> float:
    """β̃ of the second step, the smallest that is not 0."""
    alpha, sigma = schedule.alpha_sigma(torch.tensor([2, 1], dtype=torch.float64) / schedule.num_steps)
    return step_variances(alpha[0], sigma[0], alpha[1], sigma[1])[1].item()
