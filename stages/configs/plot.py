"""Settings of `ldm plot`: what to draw, and the options of each picture."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ...core.diffusion.names import SCHEDULES
from ...core.settings.fields import Location, Run, option, section
from ...core.system.settings import Machine

ZERO = "+zero"  # behind a schedule's name: rescaled to zero terminal SNR

DEFAULT_SCHEDULES = {
    "schedule": (*SCHEDULES, *(name + ZERO for name in SCHEDULES[:3])),
    "weights": ("cosine",),
    "samplers": ("cosine", "rectified-flow"),
    "guidance": ("cosine",),
    "noising": ("linear", "cosine", "rectified-flow"),
}
ONE_SCHEDULE = ("weights", "guidance")
OF_A_RUN = ("denoising", "iterative")
DEFAULT_TIMES = {
    "noising": tuple(tenth / 10 for tenth in range(11)),
    "denoising": (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
}
# The settings that each picture uses; others are refused.
USED = {
    "schedule": {"schedule"},
    "weights": {"schedule"},
    "noising": {"schedule", "data", "image_size", "times", "count", "seed"},
    "denoising": {"name", "runs_dir", "times", "count", "seed", "steps", "cfg", "machine"},
    "iterative": {"name", "runs_dir", "stride", "start_index", "every", "count", "seed", "cfg", "machine"},
    "samplers": {"schedule"},
    "guidance": {"schedule"},
}

Time = Annotated[float, Field(ge=0, le=1)]


class Plot(Run):
    """Settings of `ldm plot`. None is the picture's own default."""

    examples = (
        "ldm plot schedule",
        "ldm plot weights --schedule linear --out linear-weights.png",
        "ldm plot noising --data photos/ --count 3",
        "ldm plot denoising --name mine --cfg 2",
        "ldm plot iterative --name mine --stride 30 --start-index 10 --every 5",
    )

    what: Literal["schedule", "weights", "noising", "denoising", "iterative", "samplers", "guidance"] = option(
        ...,
        "schedule (signal and log-SNR over time), weights (of the loss, over time), noising (images over time), "
        "denoising (one step against many, of a trained run), iterative (the many, step by step), samplers (error "
        "against cost), guidance (what it does to a known distribution).",
        "WHAT",
    )
    out: Location | None = option(
        None, "PNG to write; by default plots/WHAT.png, of a run in its own folder.", "--out", identity=False
    )
    schedule: str | None = option(
        None,
        f"Schedules, with commas: {', '.join(SCHEDULES)}; NAME{ZERO} is rescaled to zero terminal SNR.",
        "--schedule",
    )
    data: str = option("mnist", "Images for noising: any source of images, or `mnist`.", "--data")
    image_size: int | None = option(
        None, "Side of the images for noising, pixels; by default their own.", "--image-size", ge=4, le=512
    )
    times: tuple[Time, ...] | None = option(None, "Noise times to show, within [0, 1]: 0.2,0.5,0.8.", "--times")
    count: int = option(1, "Images to show.", "--count", ge=1, le=32)
    steps: int = option(50, "DDIM steps from pure noise, for denoising.", "--steps", ge=1)
    stride: int = option(30, "Steps of the schedule from one time to the next, for iterative.", "--stride", ge=1)
    start_index: int = option(
        10, "Which of these times to begin at, counted from noise, for iterative.", "--start-index", ge=0
    )
    every: int = option(5, "Times between two pictures, for iterative.", "--every", ge=1)
    cfg: float = option(1.0, "Classifier-free guidance scale, for denoising and iterative.", "--cfg", ge=0)
    seed: int = option(0, "Seed of images and noise.", "--seed", ge=0, lt=2**63)
    machine: Machine = section(Machine)

    @property
    def path(self) -> Path:
        """The picture's file."""
        if self.out is not None:
            return self.out
        return (self.root / "plots" if self.what in OF_A_RUN else Path("plots")) / f"{self.what}.png"

    @property
    def schedules(self) -> dict[str, tuple[str, bool]]:
        """The schedules to show, by the name given: kind, and whether rescaled to zero terminal SNR."""
        names = _words(self.schedule) if self.schedule is not None else DEFAULT_SCHEDULES[self.what]
        return {name: (name.removesuffix(ZERO), name.endswith(ZERO)) for name in names}

    @property
    def times_shown(self) -> tuple[float, ...]:
        return self.times if self.times is not None else DEFAULT_TIMES[self.what]

    @field_validator("out")
    @classmethod
    def _pictures_are_png(cls, out: Path | None) -> Path | None:
        if out is not None and out.suffix.lower() != ".png":
            raise ValueError("pictures are PNG; give a name that ends in .png")
        return out

    @field_validator("schedule")
    @classmethod
    def _schedules_are_known(cls, schedule: str | None) -> str | None:
        for name in _words(schedule or ""):
            if name.removesuffix(ZERO) not in SCHEDULES:
                raise ValueError(f"{name} is not one of {', '.join(SCHEDULES)}")
            if name == f"rectified-flow{ZERO}":
                raise ValueError("rectified-flow always ends in zero signal; leave +zero out")
        return schedule

    @field_validator("times")
    @classmethod
    def _there_are_times(cls, times: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if times == ():
            raise ValueError("give at least one time")
        return times

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> "Plot":
        for name in sorted(self.model_fields_set - USED[self.what] - {"what", "out"}):
            raise ValueError(f"`{name}` is not a setting of `ldm plot {self.what}`; leave it out")
        if self.what in ONE_SCHEDULE and len(self.schedules) > 1:
            raise ValueError(f"`ldm plot {self.what}` shows one schedule, not {self.schedule}")
        if self.schedule is not None and not self.schedules:
            raise ValueError("`schedule` is empty")
        return self


def _words(text: str) -> tuple[str, ...]:
    """Return the words between commas, each once."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
