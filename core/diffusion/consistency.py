"""Consistency models (Song et al. 2023), trained from scratch or tuned from a denoiser (ECT, Geng et al. 2024).

A consistency function f(x_t, t) is, at every t, the data at the end of the path that leads through x_t: one call draws
an image. It is the x0 that the network's prediction stands for, so that f(x_0, 0) = x_0 holds whatever the network is.
Along a path it is constant: it is trained to be at t what it is a little nearer to the data, with the same noise,

    ‖f(x_t, t) − sg f(x_r, r)‖ / (t − r),    r = t (1 − q^−(k + 1)),

where k grows from stage to stage of the training: r comes near to t. Not too near: where the difference is as small as
the rounding of the network's products, the division by t − r leaves noise alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import predictions
from .conditions import Cond
from .denoisers import Denoiser, Network
from .objective import Denoising, Draw, mean_square
from .samplers import Noise, OnStep, levels, report_step
from .schedules import Schedule, add_noise
from .times import broadcast

PROGRESS = "progress"  # the share of the training before each sample, (B,) in [0, 1)
_ROUND = 0.00054  # below this error the norm is rounded to a square (Song & Dhariwal 2024, times √(number of values))


@dataclass(frozen=True)
class Consistency:
    """An objective: f at t is what it is at r, which comes nearer in `gap_stages` stages of equal length.

    The fields are the settings of `diffusion`; times are drawn as for denoising. gap_factor: q. Raises ValueError for a
    prediction that does not give x0 = x_t at t = 0.
    """

    schedule: Schedule
    prediction: str = "v"
    times: str = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    shift: float = 1.0
    gap_factor: float = 2.0
    gap_stages: int = 4

    def __post_init__(self) -> None:
        predictions.check(self.prediction, self.schedule)
        if self.prediction not in ("v", "flow"):
            raise ValueError(f"a consistency model predicts v or flow, not {self.prediction!r}")

    def draw(self, normal: Draw, uniform: Draw) -> dict[str, Tensor]:
        """Return the noise (B, C, h, w) and the times t (B,)."""
        how = self.times, self.logit_mean, self.logit_std, self.shift
        return Denoising(self.schedule, self.prediction, "uniform", 5.0, *how).draw(normal, uniform)

    def earlier(self, t: Tensor, progress: Tensor | None) -> Tensor:
        """Return r (B,) for times t (B,). progress: None is the end of the training."""
        stage = torch.full_like(t, self.gap_stages - 1)
        if progress is not None:
            stage = (progress.to(t) * self.gap_stages).floor().clamp(max=self.gap_stages - 1)
        return t * (1 - self.gap_factor ** -(stage + 1))

    def loss(self, network: Network, x0: Tensor, given: dict[str, Tensor], cond: Cond) -> Tensor:
        """Return each sample's loss, float32 (B,): the root mean square of the difference over t − r."""
        t = given["t"]
        r = self.earlier(t, given.get(PROGRESS))
        with torch.no_grad():
            target = self._at(network, x0, given["noise"], r, cond)
        difference = self._at(network, x0, given["noise"], t, cond) - target
        error = (mean_square(difference, given) + _ROUND**2).sqrt() - _ROUND
        return error / (t - r)

    def _at(self, network: Network, x0: Tensor, eps: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return f at x_t = alpha x0 + sigma eps."""
        alpha, sigma = self.schedule.alpha_sigma(broadcast(t, x0))
        x_t = add_noise(x0, eps, alpha, sigma)
        return predictions.to_x0(self.prediction, network(x_t, t, cond).float(), x_t, alpha, sigma)


@torch.no_grad()
def restarts(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    grid: Tensor,
    cond: Cond,
    *,
    noise: Noise | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Sample from a consistency function (Song et al. 2023, algorithm 1): x_s = alpha_s f(x_t, t) + sigma_s z.

    Each step begins anew from its estimate with fresh noise z; arguments as of `samplers`. Of a denoiser, whose
    estimate is a mean, it would draw blurred images.
    """
    alpha, sigma = levels(schedule, grid)
    for i, t in enumerate(grid[:-1]):
        x0 = denoise(x, t, cond)
        x = x0
        if sigma[i + 1] > 0:
            assert noise is not None, "a step that does not end at the data takes noise"
            x = alpha[i + 1] * x0 + sigma[i + 1] * noise(i)
        report_step(on_step, i, grid, x, x0)
    return x
