"""Times: drawn for training from uniform numbers, and laid out from noise to data for sampling.

t = 0 is data, t = 1 is noise; a table of T steps has its points at i/T. What diffusers calls timestep k
is t = (k + 1)/T.
"""

import torch
from torch import Tensor

from .names import SPACINGS, require


def on_table(t: Tensor, num_steps: int) -> Tensor:
    """Move times in [0, 1] up to the table's next one, 1/T … 1; keeps shape and dtype.

    For uniform u in [0, 1), each of the T times is equally likely.
    """
    return ((t.double() * num_steps).ceil().clamp(1, num_steps) / num_steps).to(t.dtype)


def continuous_times(uniform: Tensor, smallest: float = 1e-5) -> Tensor:
    """Map u in [0, 1) evenly to times in [smallest, 1): at t = 0 itself there is nothing to learn."""
    return smallest + (1 - smallest) * uniform


def logit_normal(uniform: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Map u in [0, 1) to t = sigmoid(n), n ~ N(mean, std²), rising with u (Esser et al. 2024, section 3.1).

    Times stay away from 0 and 1. Raises ValueError for a std that is not positive.
    """
    if std <= 0:
        raise ValueError(f"std is {std:g}: logit-normal times need a positive one")
    half_a_draw = 2.0**-25  # half the spacing of float32 uniform numbers: u = 0 means "below the smallest"
    normal = torch.special.ndtri(uniform.double().clamp(half_a_draw, 1 - half_a_draw))
    return torch.sigmoid(mean + std * normal).to(uniform.dtype)


def shift(t: Tensor, factor: float) -> Tensor:
    """Move times towards noise (factor > 1) or data (< 1): s t / (1 + (s − 1) t) (Esser et al. 2024, equation 23).

    For drawn times and grids; keeps 0 and 1. Raises ValueError for a factor that is not positive.
    """
    if factor <= 0:
        raise ValueError(f"the time shift is {factor:g}: it must be positive, and 1 changes nothing")
    return (factor * t / (1 + (factor - 1) * t)).clamp(max=1)  # where rounding leads beyond


def grid(num_steps: int, steps: int, spacing: str = "trailing", offset: int = 0, to_zero: bool = True) -> Tensor:
    """Lay out the times of a sampler with exactly `steps` steps on a table of `num_steps`.

    Returns (steps + 1,) float64 on the CPU, strictly falling: steps times at which the denoiser is called, then the
    end. The times of diffusers' DDIM and DDPM schedulers, with these exceptions, all where theirs go astray:

    - `leading`: (floor(i T / S) + 1 + offset) / T. They use i·(T // S), the same where S divides T; elsewhere theirs
      starts far below t = 1 (at 0.6 for S = 600).
    - `trailing`: round(i T / S) / T, starting at t = 1. Theirs, but that float error rounds their halves.
    - `linspace`: from 1 to 1/T. With S = 1 it starts at t = 1; theirs starts at t = 1/T.
    - `uniform`: i / S off the table, for rectified flow; any number of steps.
    - `flow`: (1 − 1/T) i / S likewise, as their flow solvers have it (use_flow_sigmas): Sana's 14 to 20 steps, shifted.

    offset: 1 with `leading` for Stable Diffusion's steps_offset. to_zero: the grid ends at t = 0; False ends it at
    t = 1/T instead (set_alpha_to_one=False). Raises ValueError for an unknown spacing, for steps outside of
    1 … T, and for an offset or end that leaves fewer than `steps` steps.
    """
    require(spacing, SPACINGS, "spacing")
    if steps < 1 or (steps > num_steps and spacing not in ("uniform", "flow")):
        raise ValueError(f"{steps} steps cannot be taken on a schedule of {num_steps}: choose 1 to {num_steps}")
    if offset and spacing != "leading":
        raise ValueError(f"offset {offset} belongs to leading spacing, not to {spacing}")
    down = range(steps, 0, -1)
    if spacing == "uniform":
        times = [i / steps for i in down]
    elif spacing == "flow":
        times = [(1 - 1 / num_steps) * i / steps for i in down]
    elif spacing == "leading":
        times = [((i - 1) * num_steps // steps + 1 + offset) / num_steps for i in down]
    elif spacing == "trailing" or steps == 1:
        times = [round(i * num_steps / steps) / num_steps for i in down]
    else:
        times = [(round((i - 1) * (num_steps - 1) / (steps - 1)) + 1) / num_steps for i in down]
    end = 0.0 if to_zero else 1 / num_steps
    if times[0] > 1 or times[-1] <= end:
        raise ValueError(
            f"{steps} steps of {spacing} spacing with offset {offset} do not fit between t = {end:g} and t = 1: "
            f"they would go from {times[0]:g} to {times[-1]:g}"
        )
    return torch.tensor([*times, end], dtype=torch.float64)


def per_sample(t: Tensor, x: Tensor) -> Tensor:
    """Return one time per sample, (B,) float32 on x's device, from (B,) or from the 0-d time of a whole batch.

    A 0-d time lives on the CPU, so that this costs no device synchronisation.
    """
    return torch.full((len(x),), float(t), dtype=torch.float32, device=x.device) if t.ndim == 0 else t


def broadcast(t: Tensor, x: Tensor) -> Tensor:
    """Shape times (B,) or 0-d so that what is computed from them multiplies x (B, ...)."""
    return t if t.ndim == 0 else t.view(-1, *(1,) * (x.ndim - 1))
