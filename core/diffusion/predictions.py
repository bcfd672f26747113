"""What a network predicts: the noise, the data, v, or the flow's velocity; and the way from each to x0.

| kind | target | x0 |
|---|---|---|
| eps | ε | (x_t − σ ε) / α |
| x0 | x0 | itself |
| v (Salimans & Ho 2022) | α ε − σ x0 | α x_t − σ v, where α² + σ² = 1 |
| flow (rectified flow's velocity) | ε − x0 | x_t − σ u, where α + σ = 1 |

`v` and `flow` are different things: each is refused where its identity does not hold.
"""

from torch import Tensor

from .schedules import Schedule

KINDS: tuple[str, ...] = ("eps", "x0", "v", "flow")


def check(kind: str, schedule: Schedule) -> None:
    """Raise ValueError where a network cannot learn, or x0 cannot be had from, this prediction on this schedule.

    Refused: `eps` where alpha is 0 at t = 1 (zero terminal SNR, and so rectified flow), as x_1 holds nothing of x0;
    `flow` off the straight path; `v` on the straight path, where α² + σ² ≠ 1 and its loss weights would be wrong.
    """
    _known(kind)
    if kind == "flow" and schedule.variance_preserving:
        raise ValueError(f"prediction 'flow' needs the schedule 'rectified-flow', not {schedule.kind!r}: take 'v' here")
    if kind == "v" and not schedule.variance_preserving:
        raise ValueError(
            f"prediction 'v' needs a variance preserving schedule, not {schedule.kind!r}: take 'flow' here"
        )
    if kind == "eps" and schedule.zero_terminal_snr:
        instead = "'v' or 'x0'" if schedule.variance_preserving else "'flow' or 'x0'"
        raise ValueError(
            f"prediction 'eps' cannot be used where alpha is 0 at t = 1, as on {_name(schedule)}: take {instead}"
        )


def target(kind: str, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return what the network should output for x_t = alpha x0 + sigma eps.

    x0, eps: (B, ...). alpha, sigma: broadcast against them, as (B, 1, 1, 1) does. Raises ValueError for an unknown
    kind.
    """
    _known(kind)
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
    _known(kind)
    if kind == "eps":
        return (x_t - sigma * output) / alpha
    if kind == "x0":
        return output
    if kind == "v":
        return alpha * x_t - sigma * output
    return x_t - sigma * output


def to_eps(x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the noise that takes x0 to x_t, on any path. Divides by sigma: not to be asked at t = 0."""
    return (x_t - alpha * x0) / sigma


def _known(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"prediction {kind!r} is not one of {', '.join(KINDS)}")


def _name(schedule: Schedule) -> str:
    zero_terminal = schedule.zero_terminal_snr and schedule.variance_preserving
    return f"{schedule.kind!r} with zero terminal SNR" if zero_terminal else f"{schedule.kind!r}"
