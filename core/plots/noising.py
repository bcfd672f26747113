"""Pictures of the forward process on images, and of one step of a denoiser beside a sampler's many."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..diffusion import samplers
from ..diffusion.conditions import Cond
from ..diffusion.denoisers import Denoiser
from ..diffusion.schedules import Schedule, add_noise
from ..diffusion.views import blur
from ..images.decode import as_tensor, as_uint8
from ..images.grid import grid, scale_for
from ..metrics.image import psnr

SIDE = 96  # pixels, about, of each small picture
BLURS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # deviations tried, pixels


def noised(x0: Tensor, eps: Tensor, schedule: Schedule, t: Tensor) -> Tensor:
    """Return x_t of one sample and one noise, both (C, h, w), at every time (n,): (n, C, h, w)."""
    alpha, sigma = (level.to(x0.dtype).view(-1, 1, 1, 1) for level in schedule.alpha_sigma(t))
    return add_noise(x0, eps, alpha, sigma)


def noising_picture(images: np.ndarray, noise: Tensor, schedules: Mapping[str, Schedule], t: Tensor) -> np.ndarray:
    """Draw images, uint8 (N, H, W, 3), at each time (n,): a row for each schedule, for one image after the other.

    noise: (N, 3, H, W), the same on every schedule and at every time. Under each picture stands its signal, ᾱ where
    the schedule is variance preserving. Values beyond black and white are clipped, as in any picture.
    """
    rows, signals = [], []
    for x0, eps in zip(as_tensor(images), noise, strict=True):
        for schedule in schedules.values():
            rows.append(as_uint8(noised(x0, eps, schedule, t)))
            letter = "ᾱ" if schedule.variance_preserving else "α²"
            signals += [f"{letter} {float(level) ** 2:.3f}" for level in schedule.alpha_sigma(t)[0]]
    pictures = np.concatenate(rows)
    return grid(
        pictures,
        columns=len(t),
        labels=signals,
        row_labels=[*schedules] * len(images),
        column_labels=[f"t = {float(time):g}" for time in t],
        scale=scale_for(pictures, SIDE),
    )


def grid_from(t: float, grid: Tensor) -> Tensor:
    """Return the times of a sampler that begins at t: those of its grid from pure noise that lie below.

    A time off the grid is put first, so that no step is longer than in sampling from pure noise.
    """
    return torch.cat([torch.tensor([t], dtype=torch.float64), grid[grid < t - 1e-9]])


@torch.no_grad()
def denoised(
    denoise: Denoiser, schedule: Schedule, x0: Tensor, eps: Tensor, cond: Cond, t: float, grid: Tensor
) -> Tensor:
    """Noise samples to time t and denoise them, in one step and by DDIM: x_t, one step and many, (3, B, C, h, w).

    x0, eps: (B, C, h, w). grid: DDIM's from pure noise, of which it takes the steps below t. At t = 0 nothing is
    denoised.
    """
    at = torch.tensor(t, dtype=torch.float64)
    x_t = add_noise(x0, eps, *schedule.alpha_sigma(at))
    if t == 0:
        return torch.stack([x_t] * 3)
    many = samplers.ddim(denoise, x_t, schedule, grid_from(t, grid), cond)
    return torch.stack([x_t, denoise(x_t, at, cond), many])


def blurred(noisy: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Return images, uint8 (B, H, W, 3), each under the Gaussian blur that brings it nearest to the clean one.

    What one does without a model: the best of `BLURS`, or none, by PSNR.
    """
    x = as_tensor(noisy)
    tried = torch.stack([x, *(blur(x, sigma) for sigma in BLURS)])
    ratios = torch.stack([psnr(each, as_tensor(clean)) for each in tried])
    return as_uint8(tried[ratios.argmax(dim=0), torch.arange(len(x))])


def denoising_picture(
    results: Sequence[Tensor], x0: Tensor, t: Sequence[float], steps: int, decode: Callable[[Tensor], np.ndarray]
) -> np.ndarray:
    """Draw what `denoised` gave at each time, uint8 (H, W, 3): for each sample rows of x_t, blurred, one step and many.

    x0: the clean samples. Under each picture stands its PSNR to the clean one. decode: latents (B, C, h, w) → uint8
    (B, H, W, 3).
    """
    clean, columns = decode(x0), []
    for result in results:
        noisy, one, many = (decode(part) for part in result)
        columns.append(np.stack([noisy, blurred(noisy, clean), one, many], axis=1))
    ordered = np.stack(columns, axis=2)  # sample, row, column, and the axes of a picture
    pictures = ordered.reshape(-1, *ordered.shape[3:])
    of_each = np.repeat(clean, len(pictures) // len(clean), axis=0)
    return grid(
        pictures,
        columns=len(results),
        labels=[f"{ratio:.1f} dB" for ratio in psnr(as_tensor(pictures), as_tensor(of_each)).tolist()],
        row_labels=["x_t", "blurred", "1 step", f"{steps} steps"] * len(ordered),
        column_labels=[f"t = {time:g}" for time in t],
        scale=scale_for(pictures, SIDE),
    )
