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


def strided(num_steps: int, stride: int, start: int) -> Tensor:
    """Return every `stride`-th time of a table from its end down to 0, without the first `start`: float64.

    A stride of 30 of 1000 gives 0.99, 0.96, … 0.03, 0. Raises ValueError where less than one step is left.
    """
    whole = torch.arange((num_steps - 1) // stride, -1, -1, dtype=torch.float64) * stride / num_steps
    if start > len(whole) - 2:
        raise ValueError(
            f"a stride of {stride} gives {len(whole) - 1} steps of {num_steps}: none is left after {start}"
        )
    return whole[start:]


@torch.no_grad()
def walked(
    denoise: Denoiser, schedule: Schedule, x0: Tensor, eps: Tensor, cond: Cond, times: Tensor, every: int
) -> tuple[list[float], list[Tensor]]:
    """Noise samples to the first time and denoise them by DDIM along the others.

    Returns every n-th time and the last step's, and for each x_t and the estimate of x0 there, (2, B, C, h, w). Behind
    them, without a time, the end: x at the last time.
    """
    seen: list[Tensor] = []

    def watched(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        estimate = denoise(x_t, t, cond)
        seen.append(torch.stack([x_t, estimate]))
        return estimate

    end = samplers.ddim(watched, add_noise(x0, eps, *schedule.alpha_sigma(times[0])), schedule, times, cond)
    chosen = sorted({*range(0, len(seen), every), len(seen) - 1})
    return [float(times[step]) for step in chosen], [*(seen[step] for step in chosen), torch.stack([end] * 2)]


def iterative_picture(
    times: Sequence[float], looks: Sequence[Tensor], x0: Tensor, decode: Callable[[Tensor], np.ndarray]
) -> np.ndarray:
    """Draw what `walked` gave, uint8 (H, W, 3): for each sample a row of x_t and one of estimates of x0.

    Behind them the clean sample and the best blur of what was begun with; one step, which is the first estimate, and
    where all steps led. Under each estimate stands its PSNR to the clean sample.
    """
    clean, decoded = decode(x0), [[decode(part) for part in look] for look in looks]
    noisy, end = decoded[0][0], decoded[-1][0]
    above = [*(x_t for x_t, _ in decoded[:-1]), clean, blurred(noisy, clean)]
    below = [*(estimate for _, estimate in decoded[:-1]), decoded[0][1], end]
    names = [
        [*(f"t = {t:g}" for t in times), "image", "blurred"],
        [*([""] * len(times)), "one step", "all steps"],
    ]
    pictures, labels = [], []
    for sample in range(len(clean)):
        for row, titles in zip((above, below), names, strict=True):
            for images, title in zip(row, titles, strict=True):
                own = images[sample][None]
                ratio = float(psnr(as_tensor(own), as_tensor(clean[sample][None])))
                plain = title == "image" or title.startswith("t =")
                labels.append(title if plain else f"{title} {ratio:.1f} dB".strip())
                pictures.append(own[0])
    rows = ["x_t", "x0 estimate"] * len(clean)
    drawn = np.stack(pictures)
    return grid(drawn, len(names[0]), labels, rows, scale=scale_for(drawn, SIDE), lines=2)


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
