"""Progressive distillation (Salimans & Ho 2022): a student that takes one DDIM step where its teacher takes two.

The student of N steps sees the times i/N alone. From z_t the teacher steps to the middle and on to z'' at t''; the x0
for which one step from z_t ends at z'' is the student's target:

    x̃ = (z'' − (σ''/σ_t) z_t) / (α'' − (σ''/σ_t) α_t)

At the last step, where σ'' = 0, that is the teacher's second x0. Then N is halved and the student becomes the teacher.
With guidance inside (Meng et al. 2023) the teacher is guided at a scale that is drawn for each sample, and the student
sees that scale as a condition: one pass takes the place of two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from . import conditions, predictions, times, weightings
from .conditions import Cond
from .denoisers import Denoiser, Network
from .objective import Draw, mean_square
from .schedules import Schedule, add_noise
from .times import broadcast

CFG = "cfg"  # the field of a condition with each sample's guidance scale (B,), which the student takes


@dataclass(frozen=True)
class Distillation:
    """An objective: the weighted squared error of the prediction that stands for x̃.

    teacher: called without gradient; takes the condition with its guidance scale where there is a range.
    num_steps: N, of the student. shift: of its times, as of sampling. guidance: (lowest, highest) scale, or None.
    Raises ValueError for a prediction of the noise, whose x0 at t = 1 is not defined.
    """

    schedule: Schedule
    teacher: Denoiser
    num_steps: int
    prediction: str = "v"
    weighting: str = "truncated-snr"
    shift: float = 1.0
    guidance: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        predictions.check(self.prediction, self.schedule)
        if self.prediction == "eps":
            raise ValueError(
                "a network that predicts the noise cannot be distilled: at t = 1 x0 does not follow from it"
            )

    @cached_property
    def grid(self) -> Tensor:
        """The student's times with a middle between each two, float64 (2N + 1,), from 1 to 0."""
        return times.shift(times.grid(2 * self.num_steps, 2 * self.num_steps, "uniform"), self.shift)

    def draw(self, normal: Draw, uniform: Draw) -> dict[str, Tensor]:
        """Return noise (B, C, h, w), the step of the student, int64 (B,), and the guidance scale (B,)."""
        step = (uniform("time").double() * self.num_steps).long().clamp(max=self.num_steps - 1)
        drawn = {"noise": normal("noise"), "step": step}
        if self.guidance is not None:
            low, high = self.guidance
            drawn[CFG] = (low + (high - low) * uniform("guidance")).float()
        return drawn

    def loss(self, network: Network, x0: Tensor, given: dict[str, Tensor], cond: Cond) -> Tensor:
        """Return each sample's loss, float32 (B,), of x0 (B, C, h, w)."""
        if self.guidance is not None:
            cond = {**cond, CFG: given[CFG]}
        triple = [self.grid.to(x0.device)[2 * given["step"] + i].float() for i in range(3)]
        alpha, sigma = self.schedule.alpha_sigma(broadcast(triple[0], x0))
        x_t = add_noise(x0, given["noise"], alpha, sigma)
        with torch.no_grad():
            wanted = two_step_target(self.teacher, self.schedule, x_t, triple, cond)
            eps = predictions.to_eps(wanted, x_t, alpha, sigma)
            target = predictions.target(self.prediction, wanted, eps, alpha, sigma)
        predicted = network(x_t, triple[0], cond).float()
        weight = weightings.loss_weight(self.weighting, self.prediction, self.schedule.log_snr(triple[0]))
        return weight.float() * mean_square(predicted - target, given)


def two_step_target(teacher: Denoiser, schedule: Schedule, x_t: Tensor, triple: Sequence[Tensor], cond: Cond) -> Tensor:
    """Return the x0 for which one DDIM step from x_t (B, C, h, w) ends where the teacher's two do.

    triple: the times (B,) of x_t, between the two steps, and after them.
    """
    alpha, sigma = zip(*(schedule.alpha_sigma(broadcast(t, x_t)) for t in triple), strict=True)
    x = x_t
    for i in range(2):
        keep = sigma[i + 1] / sigma[i]
        x = keep * x + (alpha[i + 1] - keep * alpha[i]) * teacher(x, triple[i], cond)
    keep = sigma[2] / sigma[0]
    return (x - keep * x_t) / (alpha[2] - keep * alpha[0])


def guided_by_sample(denoise: Denoiser, null: Callable[[Cond], Cond]) -> Denoiser:
    """Return a denoiser guided at the scale that its condition has for each sample: u + s (c − u), in one pass of 2B.

    null: the unconditional cond for a cond.
    """

    def guided(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        scale = cond[CFG].view(-1, *(1,) * (x_t.ndim - 1))
        bare = {name: field for name, field in cond.items() if name != CFG}
        both = denoise(torch.cat([x_t, x_t]), torch.cat([t, t]), conditions.cat(bare, null(bare)))
        c, u = both.chunk(2)
        return u + scale * (c - u)

    return guided
