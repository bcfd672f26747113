"""One step against many: a denoiser's estimate of x0, and a sampler's result from the same x_t."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..diffusion import samplers
from ..diffusion.conditions import Cond
from ..diffusion.denoisers import Denoiser
from ..diffusion.schedules import Schedule, add_noise
from ..images.grid import grid, scale_for
from .noising import SIDE


@dataclass(frozen=True)
class Denoised:
    """Samples noised to time t and denoised: all (B, C, h, w), and the sampler's number of steps."""

    noisy: Tensor
    one_step: Tensor
    iterative: Tensor
    steps: int


def grid_from(t: float, grid: Tensor) -> Tensor:
    """Return the times of a sampler that begins at t: those of its grid from pure noise that lie below.

    A time off the grid is put first, so that no step is longer than in sampling from pure noise.
    """
    return torch.cat([torch.tensor([t], dtype=torch.float64), grid[grid < t - 1e-9]])


@torch.no_grad()
def denoised(
    denoise: Denoiser, schedule: Schedule, x0: Tensor, eps: Tensor, cond: Cond, t: float, grid: Tensor
) -> Denoised:
    """Noise samples to time t and denoise them, once in one step and once by DDIM.

    x0, eps: (B, C, h, w). grid: DDIM's from pure noise, of which it takes the steps below t. At t = 0 nothing is
    denoised.
    """
    at = torch.tensor(t, dtype=torch.float64)
    x_t = add_noise(x0, eps, *schedule.alpha_sigma(at))
    if t == 0:
        return Denoised(x_t, x_t, x_t, 0)
    path = grid_from(t, grid)
    return Denoised(x_t, denoise(x_t, at, cond), samplers.ddim(denoise, x_t, schedule, path, cond), len(path) - 1)


def denoising_picture(
    results: Sequence[Denoised], t: Sequence[float], steps: int, decode: Callable[[Tensor], np.ndarray]
) -> np.ndarray:
    """Draw what `denoised` gave at each time, uint8 (H, W, 3): for each sample a row of x_t, one step and many.

    decode: latents (B, C, h, w) → uint8 (B, H, W, 3).
    """
    columns = [np.stack([decode(part) for part in (r.noisy, r.one_step, r.iterative)], axis=1) for r in results]
    ordered = np.stack(columns, axis=2)  # sample, row, column, and the axes of a picture
    pictures = ordered.reshape(-1, *ordered.shape[3:])
    return grid(
        pictures,
        columns=len(results),
        row_labels=["x_t", "1 step", f"{steps} steps"] * len(ordered),
        column_labels=[f"t = {time:g}" for time in t],
        scale=scale_for(pictures, SIDE),
    )
