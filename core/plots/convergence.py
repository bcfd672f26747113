"""Convergence of samplers to the end of the exact flow: their error over the number of evaluations."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..diffusion import samplers, times
from ..diffusion.conditions import Cond
from ..diffusion.exact import Mixture
from ..diffusion.schedules import Schedule
from ..figures import GREY, Line, Panel

# Two peaks of unit variance in all. Every number of steps divides a table of 1000, so that the steps are even.
DATA = Mixture(
    means=torch.tensor([-0.9, 0.9], dtype=torch.float64),
    stds=torch.full((2,), 0.4359, dtype=torch.float64),
    weights=torch.full((1, 2), 0.5, dtype=torch.float64),
)
STEPS = (5, 10, 20, 50, 100, 250)
SHOWN = ("ddim", "euler", "heun", "dpmpp-2m")  # the deterministic ones: only they follow the flow
# DDIM and Euler are the same map: a wide line, and a thin one over it.
_LOOKS = {"ddim": ("-", 5.0), "euler": ("-", 1.6), "heun": ("o-", 1.8), "dpmpp-2m": ("s-", 1.8)}


def sampler_errors(name: str, schedule: Schedule, steps: tuple[int, ...] = STEPS) -> tuple[Tensor, Tensor]:
    """Return a sampler's cost and error at each number of steps with an exact denoiser of `DATA`.

    Both are float64 (len(steps),). The cost is in evaluations of the denoiser; the error is the root mean square
    distance, over evenly ranked starts, to where the exact flow takes the same start.
    """
    starts = torch.special.ndtri((torch.arange(200, dtype=torch.float64) + 0.5) / 200).view(-1, 1)
    cond: Cond = {"labels": torch.zeros(len(starts), dtype=torch.int64)}
    truth = DATA.flow(schedule, starts, 1.0, 0.0, label=0)
    costs, errors = [], []
    for number in steps:
        evaluations = 0

        def denoise(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
            nonlocal evaluations
            evaluations += 1
            return DATA.denoise(schedule, x_t, t, cond["labels"])

        grid = times.grid(schedule.num_steps, number)
        reached = samplers.SAMPLERS[name](denoise, starts, schedule, grid, cond)
        costs.append(evaluations)
        errors.append(float((reached - truth).square().mean().sqrt()))
    return torch.tensor(costs, dtype=torch.float64), torch.tensor(errors, dtype=torch.float64)


def sampler_panels(schedules: Mapping[str, Schedule]) -> list[Panel]:
    """Return the errors of the deterministic samplers over their cost, a panel per named schedule.

    Grey lines fall as the first and the second power of the cost do.
    """
    panels: list[Panel] = []
    for name, schedule in schedules.items():
        lines = []
        for colour, sampler in enumerate(SHOWN):
            costs, errors = sampler_errors(sampler, schedule)
            lines.append(Line(sampler, costs, errors, colour, *_LOOKS[sampler]))
        reach = torch.tensor([10.0, 250.0], dtype=torch.float64)
        for order, style in ((1, ":"), (2, "--")):
            guide = 0.3 * (reach / reach[0]) ** -order
            lines.append(Line(f"order {order}", reach, guide, GREY, style, 1.2))
        label = "" if panels else "distance to the exact flow's end"
        panels.append(Panel(name, "evaluations of the denoiser", label, lines, y_range=(1e-6, 1), log="xy"))
    return panels
