"""The forward process on real images: their signal at each time."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from ..diffusion.schedules import Schedule, add_noise
from ..images.decode import as_tensor, as_uint8
from ..images.grid import grid, scale_for

SIDE = 96  # pixels, about, of each small picture


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
