"""Training objectives of denoisers: what is drawn for a batch, and the loss of a network on it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from . import predictions, times, variance, weightings
from .conditions import Cond
from .denoisers import Network
from .names import TIMES, WEIGHTINGS, require
from .schedules import Schedule, add_noise

Draw = Callable[[str], Tensor]
"""purpose → random numbers of a batch's samples, which follow from each one's place in the stream and the purpose."""


WEIGHTS = "weights"  # of the errors of each sample's pixels, (B, 1, h, w) of mean 1, among what is given


def mean_square(difference: Tensor, given: dict[str, Tensor]) -> Tensor:
    """Return each sample's mean squared difference, (B,), of such (B, C, h, w); weighted where weights are given."""
    square = difference.square()
    return (square * given[WEIGHTS] if WEIGHTS in given else square).flatten(1).mean(1)


class Objective(Protocol):
    """A training objective: any network's loss on a batch. It may hold a teacher, called without gradient."""

    def draw(self, normal: Draw, uniform: Draw) -> dict[str, Tensor]:
        """Return a batch's random tensors by name, batch first, from draws (B, C, h, w) and (B,) in [0, 1)."""

    def loss(self, network: Network, x0: Tensor, given: dict[str, Tensor], cond: Cond) -> Tensor:
        """Return each sample's loss, float32 (B,), of x0 (B, C, h, w).

        given: what `draw` returned, and other tensors of the samples in the data set, such as features.
        """


@dataclass(frozen=True)
class Denoising:
    """The standard objective: the weighted squared error of the network's prediction, at times that are drawn.

    The fields are the settings of `diffusion`.

    learn_variance: whether the network has 2C output channels, of which the second half is the variance. vlb_weight:
    λ of L_simple + λ L_vlb (Nichol & Dhariwal 2021, equation 16), which then is the loss. Raises ValueError for fields
    that do not fit together.
    """

    schedule: Schedule
    prediction: str = "v"
    weighting: str = "snr+1"
    min_snr_gamma: float = 5.0
    times: str = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    shift: float = 1.0
    learn_variance: bool = False
    vlb_weight: float = 0.001

    def __post_init__(self) -> None:
        predictions.check(self.prediction, self.schedule)
        require(self.weighting, WEIGHTINGS, "weighting")
        require(self.times, TIMES, "times")

    @property
    def on_table(self) -> bool:
        """Whether training sees the table's times only: on the straight path only for the bound's steps."""
        return self.schedule.variance_preserving or self.learn_variance

    def draw_times(self, uniform: Tensor) -> Tensor:
        """Map uniform numbers in [0, 1) to training times in (0, 1], float32."""
        # Uniform, or logit-normal for more times in the middle; float64 until shifted and rounded to the table.
        if self.times == "uniform":
            t = uniform.double() if self.on_table else times.continuous_times(uniform.double())
        else:
            t = times.logit_normal(uniform.double(), self.logit_mean, self.logit_std)
        t = times.shift(t, self.shift)
        return (times.on_table(t, self.schedule.num_steps) if self.on_table else t).float()

    def draw(self, normal: Draw, uniform: Draw) -> dict[str, Tensor]:
        """Return the noise (B, C, h, w) and the times t (B,)."""
        return {"noise": normal("noise"), "t": self.draw_times(uniform("time"))}

    def loss(self, network: Network, x0: Tensor, given: dict[str, Tensor], cond: Cond) -> Tensor:
        """Return each sample's loss, float32 (B,): the weighted squared error, and of a learned variance the bound."""
        eps, t = given["noise"], given["t"]
        # x_t = alpha x0 + sigma eps.
        alpha, sigma = (part.view(-1, 1, 1, 1) for part in self.schedule.alpha_sigma(t))
        x_t = add_noise(x0, eps, alpha, sigma)

        # Of 2C output channels, the first half is the prediction, the second the variance.
        output = network(x_t, t, cond).float()
        predicted = output.chunk(2, dim=1)[0] if self.learn_variance else output

        # The weight is defined on the x0 error (Salimans & Ho 2022) and converted to the prediction's own error.
        target = predictions.target(self.prediction, x0, eps, alpha, sigma)
        weight = weightings.loss_weight(self.weighting, self.prediction, self.schedule.log_snr(t), self.min_snr_gamma)
        loss = weight.float() * mean_square(predicted - target, given)
        if not self.learn_variance:
            return loss

        # L_simple + λ L_vlb. The mean is detached: the bound trains the variance alone (Nichol & Dhariwal 2021).
        # L_vlb is a sum over the T times, one of which was drawn: so its term counts T times.
        x0_hat = predictions.to_x0(self.prediction, predicted.detach(), x_t, alpha, sigma)
        fraction = (output.chunk(2, dim=1)[1] + 1) / 2
        bound = self.schedule.num_steps * variance.vlb_bits(self.schedule, x0, x_t, t, x0_hat, fraction)
        return loss + self.vlb_weight * bound.float()


@dataclass(frozen=True)
class FixedNoise:
    """Squared error of x0 at one noise level only: a denoiser of one step. From pure noise it predicts the data's mean.

    sigma: the noise in x0 + sigma eps, of which x_t is a multiple; counts unless pure_noise. Raises ValueError for
    fields that do not fit together.
    """

    schedule: Schedule
    sigma: float = 0.5
    pure_noise: bool = False
    prediction: str = "x0"

    @property
    def time(self) -> float:
        """The time of this noise level."""
        return self.schedule.time_at(math.inf if self.pure_noise else self.sigma)

    def draw(self, normal: Draw, uniform: Draw) -> dict[str, Tensor]:
        """Return the noise (B, C, h, w) and the time, B times the same."""
        noise = normal("noise")
        return {"noise": noise, "t": torch.full((len(noise),), self.time)}

    def loss(self, network: Network, x0: Tensor, given: dict[str, Tensor], cond: Cond) -> Tensor:
        """Return each sample's mean squared error of x0, float32 (B,)."""
        return Denoising(self.schedule, self.prediction, "uniform").loss(network, x0, given, cond)
