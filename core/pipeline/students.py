"""Distilled denoisers: what one can do, and how its guidance, which is inside of it, is asked for."""

from dataclasses import replace

import torch

from ..denoisers.fixing import fixed
from ..diffusion.conditions import Cond
from ..diffusion.distillation import CFG
from ..errors import ConfigError
from .generation import DEFAULT_CFG, Sampling
from .generator import refuse_settings
from .model import Model
from .settings import Drawing, Student

TAKES = ("denoiser", "checkpoint", "cfg", "cfg_paper", "steps")


def sampling_of_student(drawing: Drawing, student: Student) -> Sampling:
    """Return how a distilled denoiser draws images. Raises ConfigError for what it was not distilled to do."""
    refuse_settings(drawing, Drawing, TAKES, "a distilled denoiser")
    if drawing.steps not in (None, student.steps):
        raise ConfigError(
            f"`steps={drawing.steps}`: this denoiser was distilled to {student.steps}",
            "leave it out, or name the student of as many steps by `denoiser`",
        )
    scale = drawing.cfg if drawing.cfg_paper is None else 1 + drawing.cfg_paper
    check_scale(student, scale)
    return usual_sampling(student, scale)


def check_scale(student: Student, scale: float | None) -> None:
    """Raise ConfigError for a guidance scale that a student did not learn; None is the default one."""
    low, high = student.guidance
    if scale is not None and not low <= scale <= high:
        only = f"from {low:g} to {high:g}" if student.takes_scale else f"{low:g} alone"
        raise ConfigError(
            f"`cfg={scale:g}`: this denoiser was distilled at guidance scales {only}",
            "give one of these, or distill with another `guidance`",
        )


def usual_range(has_null: bool) -> tuple[float, float]:
    """Return the guidance scales that students learn by default."""
    return (1.0, 4.0) if has_null else (1.0, 1.0)


def usual_sampling(student: Student, cfg: float | None = None) -> Sampling:
    """Return how a student draws: its steps, at its own times, and by default the scale in its range next to 3."""
    low, high = student.guidance
    scale = min(max(DEFAULT_CFG, low), high) if cfg is None else cfg
    return Sampling(cfg=scale, steps=student.steps, spacing="uniform")


def with_scale(student: Student, cond: Cond, scale: float, count: int) -> Cond:
    """Return the condition of `count` images, with the guidance scale where the student takes it."""
    return {**cond, CFG: torch.full((count,), scale)} if student.takes_scale else cond


def at_scale(model: Model, scale: float) -> Model:
    """Return a student at one of the guidance scales that it takes, which then is no input of its network any more."""
    assert model.student is not None and model.student.takes_scale, "a student that takes its scale"
    student = model.student.model_copy(update={"guidance": (scale, scale)})
    return replace(model, network=fixed(model.network, {CFG: scale}), student=student)
