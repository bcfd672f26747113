"""Guidance: wrappers that take a denoiser and return a denoiser.

All of it happens on x0, where it equals guidance on eps, v or the velocity, since x0 is linear in each of them; but
for `rescale`, which is not linear: on x0 it brings back the contrast of the image itself.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from . import conditions
from .conditions import Cond
from .denoisers import Denoiser
from .schedules import Schedule
from .times import broadcast, per_sample

Interval = tuple[float, float]
LogProb = Callable[[Tensor, Tensor, Cond], Tensor]
"""(x_t (B, ...), t (B,), cond) → log p(cond | x_t), (B,)."""

Gradient = Callable[[Tensor, Tensor, Cond], Tensor]
"""(x_t (B, ...), t as a denoiser's, cond) → the gradient of log p(cond | x_t) in x_t, (B, ...)."""


def classifier_free(
    denoise: Denoiser,
    scale: float,
    null: Callable[[Cond], Cond],
    interval: Interval | None = None,
    rescale: float = 0.0,
    channels: int | None = None,
) -> Denoiser:
    """Guide by the difference between the conditional and the unconditional estimate: u + scale (c − u).

    The form of Stable Diffusion; the paper's w (Ho & Salimans 2022, equation 6) is scale − 1. Scale 1 is the
    conditional estimate alone and scale 0 the unconditional one, each one pass; other scales are one pass of a
    doubled batch, the conditional half first.

    null: the unconditional cond for a cond. interval: (low, high) in time, ends
    included; outside it c alone, in one pass (Kynkäänniemi et al. 2024). rescale: φ in [0, 1] of the way to the
    standard deviation of c (Lin et al. 2024, equations 14-16). channels: guide the first ones only, as the DiT
    repository's sampling does with 3 of 4; the others are c. Raises ValueError for an interval or φ out of range.
    """
    if not 0 <= rescale <= 1:
        raise ValueError(f"guidance rescale is {rescale:g}: it must lie in [0, 1]")
    if scale == 1:
        return denoise

    # Conditions do not change along a path: their null and doubled forms are made once, not at every step.
    null = conditions.once(null)
    doubled = conditions.once(lambda cond: conditions.cat(cond, null(cond)))

    def unconditional(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return denoise(x_t, t, null(cond))

    def guided(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        # Both estimates in one pass of 2B samples.
        twice_t = t if t.ndim == 0 else torch.cat([t, t])
        both = denoise(torch.cat([x_t, x_t]), twice_t, doubled(cond))
        c, u = both.chunk(2)

        # x0 = u + scale (c − u), on all channels unless `channels` limits it.
        x0 = u + scale * (c - u)
        if channels is not None:
            x0 = torch.cat([x0[:, :channels], c[:, channels:]], dim=1)
        return rescaled(x0, c, rescale) if rescale else x0

    # Scale 0 is u alone, in one pass; rescaling or single channels need c as well.
    alone = scale == 0 and not rescale and channels is None
    return within(unconditional if alone else guided, denoise, interval)


def autoguidance(denoise: Denoiser, weak: Denoiser, scale: float, interval: Interval | None = None) -> Denoiser:
    """Guide away from a weaker model of the same data: w + scale (c − w) (Karras et al. 2024, equation 3).

    Scale 1 does not call the weak model. Inside of `classifier_free`, both models must have a null class.
    """
    if scale == 1:
        return denoise

    def guided(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        w = weak(x_t, t, cond)
        return w + scale * (denoise(x_t, t, cond) - w)

    return within(guided, denoise, interval)


def classifier(
    denoise: Denoiser, gradient: Gradient, schedule: Schedule, scale: float, interval: Interval | None = None
) -> Denoiser:
    """Guide by a classifier of noisy samples, DDIM form: eps − scale sigma ∇ log p(cond | x_t).

    Dhariwal & Nichol 2021, algorithm 2; on x0 it is + scale sigma² / alpha ∇. Where alpha is 0, x_t does not depend on
    the class and the gradient is 0. The DDPM form (algorithm 1) is `samplers.ddpm` with a gradient. To combine
    with `classifier_free`, wrap its result: the classifier never sees the null class.
    """
    if scale == 0:
        return denoise

    def guided(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        alpha, sigma = schedule.alpha_sigma(broadcast(t, x_t))
        # eps − scale sigma ∇ is x0 + scale (sigma² / alpha) ∇, since x0 = (x_t − sigma eps) / alpha.
        strength = torch.where(alpha > 0, scale * sigma**2 / alpha, torch.zeros_like(alpha))
        return denoise(x_t, t, cond) + strength * gradient(x_t, t, cond)

    return within(guided, denoise, interval)


def gradient_of(log_prob: LogProb) -> Gradient:
    """Return the gradient in x_t of a classifier's log-probability; works under `torch.no_grad`."""

    def gradient(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        with torch.enable_grad():
            # The gradient in x_t alone: a sample's log-probability depends on no other, so their sum serves all.
            x_t = x_t.detach().requires_grad_()
            return torch.autograd.grad(log_prob(x_t, per_sample(t, x_t), cond).sum(), x_t)[0]

    return gradient


def within(inside: Denoiser, outside: Denoiser, interval: Interval | None) -> Denoiser:
    """Return a denoiser that calls one at times in [low, high] and the other elsewhere.

    With a 0-d time, only one of the two is called, without waiting for the device. With times (B,) both are, and each
    sample takes its own. Without an interval the first is always used. Raises ValueError unless 0 ≤ low ≤ high ≤ 1.
    """
    if interval is None:
        return inside
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise ValueError(f"guidance interval is [{low:g}, {high:g}]: it must be within [0, 1], the lower end first")

    def denoise(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        # A sampler's 0-d time is on the CPU, so that choosing here waits for no device.
        if t.ndim == 0:
            return (inside if low <= float(t) <= high else outside)(x_t, t, cond)
        chosen = broadcast((t >= low) & (t <= high), x_t)
        return torch.where(chosen, inside(x_t, t, cond), outside(x_t, t, cond))

    return denoise


def rescaled(x0: Tensor, conditional: Tensor, amount: float) -> Tensor:
    """Bring x0 `amount` of the way to the standard deviation that the conditional estimate has, sample by sample."""
    # x0 (φ std(c) / std(x0) + 1 − φ), the deviations over all axes of a sample (Lin et al. 2024, equations 14-16).
    axes = tuple(range(1, x0.ndim))
    own = x0.std(dim=axes, keepdim=True)
    # Of an estimate that is constant there is no contrast to change.
    ratio = torch.where(own > 0, conditional.std(dim=axes, keepdim=True) / own, 1)
    return (amount * ratio + (1 - amount)) * x0
