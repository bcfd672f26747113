"""Names of schedules, predictions, weightings, times and samplers, and which of them fit together. Imports no torch.

The code of each is in the module of that name; settings take the names from here.
"""

from typing import Literal, get_args

ScheduleName = Literal["linear", "scaled-linear", "cosine", "quadratic", "sigmoid", "rectified-flow"]
ObjectiveName = Literal["denoising", "fixed-noise", "consistency"]
PredictionName = Literal["eps", "x0", "v", "flow"]
WeightingName = Literal["uniform", "snr", "truncated-snr", "snr+1", "min-snr", "flow"]
TimesName = Literal["uniform", "logit-normal"]
SpacingName = Literal["leading", "trailing", "linspace", "uniform", "flow"]
SamplerName = Literal["ddim", "ddpm", "euler", "heun", "dpmpp-2m"]

SCHEDULES: tuple[str, ...] = get_args(ScheduleName)
PREDICTIONS: tuple[str, ...] = get_args(PredictionName)
WEIGHTINGS: tuple[str, ...] = get_args(WeightingName)
TIMES: tuple[str, ...] = get_args(TimesName)
SPACINGS: tuple[str, ...] = get_args(SpacingName)
SAMPLERS: tuple[str, ...] = get_args(SamplerName)
FIXED_NOISE: ObjectiveName = "fixed-noise"
CONSISTENCY: ObjectiveName = "consistency"
STRAIGHT: ScheduleName = "rectified-flow"  # the one that is not variance preserving


def check_prediction(prediction: str, schedule: str, zero_terminal_snr: bool) -> None:
    """Raise ValueError where a network cannot learn, or x0 cannot be had from, this prediction on this schedule.

    Refused: `eps` where alpha is 0 at t = 1 (zero terminal SNR, and so rectified flow), as x_1 holds nothing of x0;
    `flow` off the straight path; `v` on the straight path, where α² + σ² ≠ 1 and its loss weights would be wrong.
    """
    require(prediction, PREDICTIONS, "prediction")
    straight = schedule == STRAIGHT
    if prediction == "flow" and not straight:
        raise ValueError(f"prediction 'flow' needs the schedule 'rectified-flow', not {schedule!r}: take 'v' here")
    if prediction == "v" and straight:
        raise ValueError(f"prediction 'v' needs a variance preserving schedule, not {schedule!r}: take 'flow' here")
    if prediction == "eps" and (zero_terminal_snr or straight):
        name, instead = (
            (f"{schedule!r}", "'flow' or 'x0'") if straight else (f"{schedule!r} with zero terminal SNR", "'v' or 'x0'")
        )
        raise ValueError(f"prediction 'eps' cannot be used where alpha is 0 at t = 1, as on {name}: take {instead}")


def least_steps(schedule: str) -> int:
    """Return the number of steps from which a schedule is the one of 1000 steps, to within 0.016 in alpha."""
    return 2 if schedule in ("cosine", STRAIGHT) else 100


def require(name: str, known: tuple[str, ...], what: str) -> None:
    """Raise ValueError for a name that is not one of those known."""
    if name not in known:
        raise ValueError(f"{what} {name!r} is not one of {', '.join(known)}")


ViewName = Literal["none", "flip", "rotate180", "rotate90", "transpose", "negate", "jigsaw"]
