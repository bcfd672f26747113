"""Our noise schedules and predictions as schedulers of diffusers, and back.

There, step k = 0 … T - 1 is our t = (k + 1)/T. Rectified flow is given T t itself.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..diffusion import schedules
from ..diffusion.schedules import Schedule, schedule
from ..errors import ConfigError, DataError, as_data_error

FLOW = "FlowMapEulerDiscreteScheduler"  # in pipelines that scale their inputs by the scheduler
FLOW_MATCH = "FlowMatchEulerDiscreteScheduler"
_SOLVER = "DPMSolverMultistepScheduler"  # of flow, too
_OWN_TIMES = (  # of flow, that no schedule of ours has
    *("use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas"),
    "shift_terminal",
)
_OTHER_NOISE = ("FlowMatch", "EDM")
_PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
_BETA_KEYS = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"),
)
_SAME = 2e-4  # between alphas and sigmas at all times: no two of our schedules are so near
_MOST_STEPS = 10_000


@dataclass(frozen=True)
class Process:
    """A schedule by name, what the network predicts, and how it is given the time: see `transformer`.

    ahead: by how much the step it is given lags behind `time_scale` t. shift: of the sampler's times.
    """

    kind: str
    num_steps: int
    zero_terminal_snr: bool
    prediction: str
    time_scale: float
    ahead: int
    shift: float = 1.0


def ahead_of(schedule: Schedule) -> int:
    """Return how many steps our time is ahead of the step that diffusers' network is given."""
    return 1 if schedule.variance_preserving else 0


def shifts(schedule: Schedule) -> bool:
    """Say whether there is a scheduler that shifts the times as our samplers do."""
    return not schedule.variance_preserving


def to_diffusers(schedule: Schedule, prediction: str, time_scale: float, shift: float = 1.0, flow: str = FLOW) -> Any:
    """Return the scheduler that samples as DDIM without noise does here, from the same noise, in the same steps.

    time_scale: the network's, T there; a schedule of fewer steps is interpolated to it. shift: of the sampler's times,
    for rectified flow; see `shifts`. flow: the class for that. Raises ConfigError for a pair that no scheduler serves.
    """
    import diffusers  # here, since it takes seconds to import

    if schedule.variance_preserving:
        steps = int(time_scale)
        if steps != time_scale or steps % schedule.num_steps:
            raise ConfigError(
                f"a schedule of {schedule.num_steps} steps cannot be expressed in diffusers: the network knows"
                f" {time_scale:g} times, which {schedule.num_steps} does not divide",
                "train with diffusion.num_steps=1000, or a number that divides it",
            )
        betas = _betas(_alpha_bars(schedule, steps))
        return diffusers.DDIMScheduler(
            num_train_timesteps=steps,
            trained_betas=betas,
            clip_sample=False,
            set_alpha_to_one=True,
            steps_offset=0,
            prediction_type=_PREDICTIONS[prediction],
            timestep_spacing="trailing",
        )
    if prediction != "flow":
        raise ConfigError(
            f"prediction {prediction} on the schedule rectified-flow has no scheduler in diffusers",
            "train with `diffusion.prediction=flow`",
        )
    if not hasattr(diffusers, flow):
        raise ConfigError(
            f"diffusers {diffusers.__version__} has no scheduler that the pipeline can use for rectified flow",
            f"upgrade diffusers to a version with {flow}",
        )
    return getattr(diffusers, flow)(num_train_timesteps=int(time_scale), shift=shift)


def _alpha_bars(schedule: Schedule, steps: int) -> Tensor:
    """Return alpha² at 1/steps, 2/steps … 1, float64."""
    if schedule.num_steps == steps:
        return schedule.alpha_bars
    alpha, _ = schedule.alpha_sigma(torch.arange(1, steps + 1, dtype=torch.float64) / steps)
    return alpha**2


def _betas(alpha_bars: Tensor) -> list[float]:
    """Return betas, float32, whose products of 1 - beta are alpha_bars again.

    Each makes up for the rounding of those before it, which would otherwise add up over a thousand factors.
    """
    betas, product = [], 1.0
    for wanted in alpha_bars.tolist():
        beta = np.float32(1 - wanted / product) if product > 0 else np.float32(1)
        product *= float(np.float32(1) - beta)
        betas.append(float(beta))
    return betas


def from_diffusers(config: Mapping[str, Any], path: str) -> Process:
    """Recognise the schedule and the prediction of a scheduler's config, whatever the sampler.

    path: of the config, named in errors. Raises DataError for a schedule that is not one of ours.
    """
    import diffusers  # here, since it takes seconds to import

    steps = config.get("num_train_timesteps", 1000)
    if type(steps) is not int or not 2 <= steps <= _MOST_STEPS:
        raise DataError(f"{path}: num_train_timesteps is {steps!r}", f"give a scheduler of 2 to {_MOST_STEPS:,} steps")
    kind = config.get("_class_name")
    solves_flow = kind == _SOLVER and config.get("use_flow_sigmas") is True
    if solves_flow and (predicted := config.get("prediction_type")) != "flow_prediction":
        raise DataError(f"{path}: prediction_type is {predicted!r} of a flow", "give a network of a flow's velocity")
    if kind in (FLOW, FLOW_MATCH) or solves_flow:
        if own := [name for name in _OWN_TIMES if config.get(name)]:
            raise DataError(f"{path}: {own[0]} is {config[own[0]]!r}", "give a scheduler of one fixed shift")
        shift = config.get("flow_shift" if solves_flow else "shift", 1.0)
        if isinstance(shift, bool) or not isinstance(shift, (int, float)) or not 0 < shift < math.inf:
            raise DataError(f"{path}: shift is {shift!r}", "give a positive number")
        return Process("rectified-flow", steps, False, "flow", float(steps), ahead=0, shift=float(shift))
    known_by_betas = "beta_schedule" in config or config.get("trained_betas") is not None
    if not known_by_betas or config.get("use_flow_sigmas") or str(config.get("_class_name")).startswith(_OTHER_NOISE):
        raise DataError(
            f"{path}: a {config.get('_class_name')} whose noise is not that of betas",
            f"give a pipeline with DDIMScheduler, or with {FLOW_MATCH} for rectified flow",
        )
    named = config.get("prediction_type", "epsilon")
    prediction = next((mine for mine, theirs in _PREDICTIONS.items() if theirs == named), None)
    if prediction is None:
        raise DataError(
            f"{path}: prediction_type {named!r} is not one of {', '.join(_PREDICTIONS.values())}",
            "give a pipeline whose scheduler predicts one of these",
        )
    with as_data_error(f"{path} describes no noise schedule", "give a scheduler as diffusers saves it"):
        scheduler: Any = diffusers.DDIMScheduler(**{key: config[key] for key in _BETA_KEYS if key in config})
    if scheduler.alphas_cumprod.shape != (steps,):  # Betas that are listed may be a number, or a list of lists.
        raise DataError(f"{path}: {scheduler.alphas_cumprod.numel()} betas for {steps} steps", "give a whole scheduler")
    nearest, process = min(_candidates(scheduler.alphas_cumprod.double(), prediction), key=lambda found: found[0])
    if nearest < _SAME:
        return process
    raise DataError(
        f"{path} is not one of the schedules {', '.join(schedules.BETAS)}: alpha_bar ends at"
        f" {float(scheduler.alphas_cumprod[-1]):.3g}",
        "give a model trained on one of these",
    )


def _candidates(theirs: Tensor, prediction: str) -> Iterator[tuple[float, Process]]:
    """Yield each schedule of ours whose number of steps divides theirs, and by how much their levels differ."""
    steps = len(theirs)
    for kind, zero_terminal in itertools.product(schedules.BETAS, (False, True)):
        for num_steps in (n for n in range(2, steps + 1) if steps % n == 0):
            ours = _alpha_bars(schedule(kind, num_steps, zero_terminal), steps)
            apart = max(
                (ours.sqrt() - theirs.sqrt()).abs().max(), ((1 - ours).sqrt() - (1 - theirs).sqrt()).abs().max()
            )
            process = Process(kind, num_steps, zero_terminal, prediction, float(steps), ahead=1)
            yield math.inf if bool(apart.isnan()) else float(apart), process
