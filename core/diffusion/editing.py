"""Editing with an unchanged denoiser: where sampling starts, which times it visits, and wrappers.

Image-to-image is a start state and the rest of the grid. RePaint's jumps are a list of times for `samplers.walk`.
Inpainting is a wrapper that takes a denoiser and returns one.
"""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .conditions import Cond
from .denoisers import Denoiser
from .schedules import Schedule, add_noise
from .times import broadcast


def from_image(x0: Tensor, noise: Tensor, schedule: Schedule, grid: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Return the state that image-to-image starts from, and its times (SDEdit; Meng et al. 2022).

    strength: the time in [0, 1] that x0 is noised to, moved to the nearest of the grid, which ends at 0. At the grid's
    first time that is the noise alone: alpha x0 would show through where a schedule does not end in pure noise. At 0 it
    is x0, and there is no step.
    """
    times = times_from(grid, strength)
    noised = add_noise(x0, noise, *schedule.alpha_sigma(times[0]))
    return (noised if len(times) < len(grid) else noise), times


def times_from(grid: Tensor, strength: float) -> Tensor:
    """Return the grid's times from the one nearest to `strength` on: the steps are those of full sampling."""
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength:g}: it must lie in [0, 1]")
    return grid[int((grid - strength).abs().argmin()) :]


@torch.no_grad()
def inverted(
    denoise: Denoiser, x0: Tensor, schedule: Schedule, grid: Tensor, strength: float, cond: Cond, refine: int = 1
) -> tuple[Tensor, Tensor]:
    """Return the state from which DDIM leads back to x0, and its times (DDIM inversion; Song et al. 2021, section 4.3).

    Each step from s up to t is x_t = (alpha_t / alpha_s) x_s + (sigma_t − sigma_s alpha_t / alpha_s) eps. The step down
    has eps(x_t, t), which is not known yet: it begins as eps(x_s, s), and is computed again at the x_t that it gave,
    `refine` times. With guidance it does not converge: denoise without.
    """
    times = times_from(grid, strength)
    rising = times.flip(0)
    alpha, sigma = (levels.tolist() for levels in schedule.alpha_sigma(rising))

    def eps(x: Tensor, place: int) -> Tensor:
        return (x - alpha[place] * denoise(x, rising[place], cond)) / sigma[place]

    x = x0
    for s in range(len(rising) - 1):
        # At t = 0 there is no noise to see: x0 is looked at as if it had that of the first step.
        t = s + 1
        keep, add = alpha[t] / alpha[s], sigma[t] - sigma[s] * alpha[t] / alpha[s]
        x_s, noise = x, eps(x, max(s, 1))
        for _ in range(refine):
            noise = eps(keep * x_s + add * noise, t)
        x = keep * x_s + add * noise
    return x, times


def resampling(grid: Tensor, jump: int, repeats: int) -> Tensor:
    """Return the grid's times with jumps back (RePaint; Lugmayr et al. 2022): they make the new part fit the known one.

    Counted from the end, the walk goes back by `jump` steps after every `jump` steps, so that it takes each `repeats`
    times; repeats 1 is the grid itself.
    """
    if jump < 1 or repeats < 1:
        raise ValueError(f"jump is {jump}, repeats {repeats}: both must be 1 or more")
    # How often to go back from each place: none before the first `jump` steps, which have nothing to repeat.
    steps = len(grid) - 1
    left = dict.fromkeys(range(steps - 1, jump - 1, -jump), repeats - 1)
    place, places = 0, [0]
    while place < steps:
        place += 1
        places.append(place)
        # A jump visits every time on the way: `walk` adds its noise in one draw.
        if left.get(place, 0):
            left[place] -= 1
            places += range(place - 1, place - jump - 1, -1)
            place -= jump
    return grid[places]


def inpainting(
    denoise: Denoiser, known: Tensor, new: Tensor, schedule: Schedule, noise: Callable[[int], Tensor]
) -> Denoiser:
    """Generate only the new part, and keep the rest (replacement, as in RePaint; Lugmayr et al. 2022).

    known: clean, as x0. new: bool, broadcasts against it: True where x0 is to be made. noise: call number → fresh
    noise. The denoiser sees the known part at the noise level of x_t, and the estimate has it clean, so that any
    sampler ends in it exactly.
    """
    calls = itertools.count()

    def painted(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        # The network sees the known part as noisy as the rest of x_t; the estimate keeps it clean.
        noised = add_noise(known, noise(next(calls)), *schedule.alpha_sigma(broadcast(t, x_t)))
        x0 = denoise(torch.where(new, x_t, noised.to(x_t.dtype)), t, cond)
        return torch.where(new, x0, known)

    return painted


def latent_mask(new: Tensor, downsampling: int) -> Tensor:
    """Return where latents are new, bool (B, 1, h, w), from pixels bool (B, 1, H, W): cells with any new pixel."""
    return F.max_pool2d(new.float(), downsampling) > 0
