"""Classifier-free guidance on a known distribution: densities of samples, and their paths.

Numbers, of two classes with two peaks each. Their denoiser is exact, so the pictures show guidance alone; and since a
deterministic sampler keeps the order of numbers, the density of its samples follows from that of the noise.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..diffusion import conditions, guidance, samplers, times
from ..diffusion.conditions import Cond
from ..diffusion.denoisers import Denoiser
from ..diffusion.exact import Mixture
from ..diffusion.guidance import Interval
from ..diffusion.schedules import Schedule
from ..figures import GREY, Line, Panel

LEFT, RIGHT, NULL = 0, 1, 2
DATA = Mixture(
    means=torch.tensor([-2.0, -0.6, 0.6, 2.0], dtype=torch.float64),
    stds=torch.full((4,), 0.4, dtype=torch.float64),
    weights=torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0.25] * 4], dtype=torch.float64),
)
SCALES = {0.0: GREY, 1.0: 0, 3.0: 2, 7.0: 1}
INTERVALS: dict[Interval | None, tuple[int, float]] = {None: (1, 4.0), (0.6, 1.0): (4, 1.8), (0.0, 0.6): (3, 1.8)}
_STEPS = 200
_SHOWN = (-3.5, 4.5)


def guided(schedule: Schedule, scale: float, interval: Interval | None = None) -> Denoiser:
    """Return the exact denoiser of the data, guided towards a class."""

    def denoise(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return DATA.denoise(schedule, x_t, t, cond["labels"])

    return guidance.classifier_free(
        denoise, scale, lambda cond: conditions.each(cond, lambda labels: torch.full_like(labels, NULL)), interval
    )


def path(denoise: Denoiser, schedule: Schedule, noise: Tensor) -> Tensor:
    """Return where noise (N,) is at each time of the sampler's grid, (steps + 1, N), on its way to class `RIGHT`."""
    reached = [noise]
    cond = {"labels": torch.full((len(noise),), RIGHT)}
    grid = times.grid(schedule.num_steps, _STEPS)
    samplers.dpmpp_2m(
        denoise, noise[:, None], schedule, grid, cond, on_step=lambda i, t, x, x0: reached.append(x[:, 0])
    )
    return torch.stack(reached)


def density(denoise: Denoiser, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Return numbers, rising, and the density of samples of class `RIGHT` there: that of the noise over the stretch."""
    noise = torch.linspace(-4, 4, 401, dtype=torch.float64)
    reached = path(denoise, schedule, noise)[-1]
    (stretch,) = torch.gradient(reached, spacing=(noise,))
    return reached, torch.exp(-0.5 * noise**2) / (2 * torch.pi) ** 0.5 / stretch


def guidance_panels(schedule: Schedule) -> list[Panel]:
    """Return densities by scale, densities at the largest scale by interval, and paths from noise by scale."""
    x = torch.linspace(*_SHOWN, 400, dtype=torch.float64)
    truth = Line("the class itself", x, DATA.density(x, RIGHT), 5, "-", 6.0)
    by_scale = [Line(f"s = {s:g}", *density(guided(schedule, s), schedule), colour) for s, colour in SCALES.items()]
    largest = max(SCALES)
    by_interval = [
        Line(_named(interval), *density(guided(schedule, largest, interval), schedule), colour, "-", width)
        for interval, (colour, width) in INTERVALS.items()
    ]
    t = times.grid(schedule.num_steps, _STEPS)
    starts = torch.linspace(-2, 2, 9, dtype=torch.float64)
    paths: list[Line] = []
    for scale in (1.0, largest):
        for place, line in enumerate(path(guided(schedule, scale), schedule, starts).T):
            paths.append(Line("" if place else f"s = {scale:g}", t, line, SCALES[scale], "-", 1.2))
    return [
        _densities("samples of the right class", "density", [truth, *by_scale]),
        _densities(f"s = {largest:g}, guided at", "", [truth, *by_interval]),
        Panel("paths from noise (t = 1)", "t", "$x_t$", paths, falling=True),
    ]


def _named(interval: Interval | None) -> str:
    return "all times" if interval is None else f"t in [{interval[0]:g}, {interval[1]:g}]"


def _densities(title: str, y_label: str, lines: Sequence[Line]) -> Panel:
    return Panel(title, "x", y_label, lines, x_range=_SHOWN, y_range=(0, 1.6))
