"""What a network predicts: the noise, the data, v, or the flow's velocity; and the way from each to x0.

| kind | target | x0 |
|---|---|---|
| eps | ε | (x_t − σ ε) / α |
| x0 | x0 | itself |
| v (Salimans & Ho 2022) | α ε − σ x0 | α x_t − σ v, where α² + σ² = 1 |
| flow (rectified flow's velocity) | ε − x0 | x_t − σ u, where α + σ = 1 |

`v` and `flow` are different things: each is refused where its identity does not hold.
"""

import torch
from torch import Tensor

from .names import PREDICTIONS, check_prediction, require
from .schedules import Schedule

# Just above the sigma / alpha at which DDPM's linear schedule ends, with 1000 or 500 steps (157 and 163).
MOST_NOISE = 165.0


def check(kind: str, schedule: Schedule) -> None:
    """Raise ValueError for a prediction that this schedule does not allow; see `names.check_prediction`."""
    check_prediction(kind, schedule.kind, schedule.zero_terminal_snr)


def target(kind: str, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return what the network should output for x_t = alpha x0 + sigma eps.

    x0, eps: (B, ...). alpha, sigma: broadcast against them, as (B, 1, 1, 1) does. Raises ValueError for an unknown
    kind.
    """
    require(kind, PREDICTIONS, "prediction")
    if kind == "eps":
        return eps
    if kind == "x0":
        return x0
    if kind == "v":
        return alpha * eps - sigma * x0
    return eps - x0


def to_x0(kind: str, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the x0 that the network's output stands for; shapes and errors as in `target`.

    Finite at both ends for every kind but `eps`, which divides by alpha.
    """
    require(kind, PREDICTIONS, "prediction")
    if kind == "eps":
        return (x_t - sigma * output) / alpha
    if kind == "x0":
        return output
    if kind == "v":
        return alpha * x_t - sigma * output
    return x_t - sigma * output


def latest_time(kind: str, schedule: Schedule) -> float:
    """Return the time at which sampling may start: 1, but with `eps` no later than sigma / alpha is MOST_NOISE.

    x0 = (x_t − sigma eps) / alpha multiplies an error of the network by sigma / alpha, which is 20,000 at the end of
    the cosine schedule. There x_t is noise almost alone, also at the time returned.
    """
    alpha, sigma = schedule.alpha_sigma(torch.ones((), dtype=torch.float64))
    return 1.0 if kind != "eps" or sigma <= MOST_NOISE * alpha else schedule.time_at(MOST_NOISE)


def to_eps(x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the noise that takes x0 to x_t, on any path. Divides by sigma: not defined at t = 0."""
    return (x_t - alpha * x0) / sigma
