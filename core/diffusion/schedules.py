"""Noise schedules: how much signal (alpha) and noise (sigma) x_t = alpha x0 + sigma eps holds at time t."""

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .names import SCHEDULES, STRAIGHT, require

MAX_BETA = 0.999


def _linear(num_steps: int) -> Tensor:
    """Ho et al. 2020, section 4."""
    return torch.linspace(1e-4, 0.02, num_steps, dtype=torch.float64) * (1000 / num_steps)


def _scaled_linear(num_steps: int) -> Tensor:
    """Rombach et al. 2022 (Stable Diffusion): linear in sqrt(beta); some code calls this one "linear"."""
    return torch.linspace(0.00085**0.5, 0.012**0.5, num_steps, dtype=torch.float64) ** 2 * (1000 / num_steps)


def _cosine(num_steps: int) -> Tensor:
    """Nichol & Dhariwal 2021, equation 17: alpha_bar = f(t) / f(0), f(t) = cos²(π/2 (t + s) / (1 + s)), s = 0.008."""
    t = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    f = torch.cos((t + 0.008) / 1.008 * (torch.pi / 2)) ** 2
    return 1 - f[1:] / f[:-1]


def _quadratic(num_steps: int) -> Tensor:
    """DDPM's end points, linear in sqrt(beta), as "quad" in the code of Song et al. 2021 (DDIM)."""
    return torch.linspace(1e-4**0.5, 0.02**0.5, num_steps, dtype=torch.float64) ** 2 * (1000 / num_steps)


def _sigmoid(num_steps: int) -> Tensor:
    """DDPM's end points joined by a logistic curve over [-6, 6], as "sigmoid" in the code of Song et al. 2021."""
    curve = torch.sigmoid(torch.linspace(-6, 6, num_steps, dtype=torch.float64))
    return (1e-4 + (0.02 - 1e-4) * curve) * (1000 / num_steps)


BETAS: dict[str, Callable[[int], Tensor]] = {
    "linear": _linear,
    "scaled-linear": _scaled_linear,
    "cosine": _cosine,
    "quadratic": _quadratic,
    "sigmoid": _sigmoid,
}


@dataclass(frozen=True, eq=False)
class Schedule:
    """A path from data (t = 0: alpha 1, sigma 0) to noise (t = 1); made by `schedule`.

    `alpha_bars` is alpha² at t = 1/T, 2/T … 1: float64, (T,), on the CPU. `zero_terminal_snr` says whether
    alpha is 0 at t = 1, as it always is for rectified flow.
    """

    kind: str
    num_steps: int
    zero_terminal_snr: bool
    alpha_bars: Tensor
    _tables: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def variance_preserving(self) -> bool:
        """Whether alpha² + sigma² = 1 at all times."""
        return self.kind != STRAIGHT

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Look up the signal and noise levels at t.

        t: float32 or float64 in [0, 1], any shape, any device. Both results have its shape, dtype and device; they
        are exact at i/T and continuous between, as the angle atan2(sigma, alpha) is interpolated linearly: that
        keeps alpha² + sigma² = 1, and both ends finite. Raises ValueError for another dtype, or, where looking
        costs no device synchronisation (on the CPU), for a time outside of [0, 1].
        """
        alpha, sigma = self._levels(t)
        return alpha.to(t.dtype), sigma.to(t.dtype)

    def log_snr(self, t: Tensor) -> Tensor:
        """Return log(alpha² / sigma²) at t, as `alpha_sigma`; +inf at t = 0, -inf where alpha is 0."""
        alpha, sigma = self._levels(t)
        return (2 * (alpha.log() - sigma.log())).to(t.dtype)

    def time_at(self, noise: float) -> float:
        """Return the time at which sigma / alpha is `noise`, inf for noise alone. Raises ValueError if it never is."""
        if not self.variance_preserving:
            return 1.0 if math.isinf(noise) else noise / (1 + noise)
        angles = self._table(torch.device("cpu"))[:, 1].tolist()
        angle = math.atan(noise)
        if not 0 <= angle <= angles[-1]:
            last = math.tan(angles[-1])
            raise ValueError(f"sigma / alpha of {noise:g} does not occur on {self.kind!r}, which ends at {last:g}")
        after = min(bisect.bisect_right(angles, angle), self.num_steps)
        before = after - 1
        return (before + (angle - angles[before]) / (angles[after] - angles[before])) / self.num_steps

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        if t.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"t has dtype {t.dtype}: times are float32 or float64 in [0, 1]")
        if t.device.type == "cpu" and not ((t >= 0) & (t <= 1)).all():
            raise ValueError(f"t lies outside of [0, 1] (0 is data, 1 is noise): seen {t.min():g} to {t.max():g}")
        precise = t.to(precision(t.device))
        if not self.variance_preserving:
            return 1 - precise, precise
        # A float32 time is i/T only up to rounding: a time that near to a table point counts as it.
        position = precise * self.num_steps
        nearest = position.round()
        rounding = 2 * self.num_steps * torch.finfo(t.dtype).eps
        position = torch.where((position - nearest).abs() <= rounding, nearest, position)
        index = position.floor().long().clamp(0, self.num_steps - 1)
        table = self._table(t.device)
        angles = torch.lerp(table[index], table[index + 1], (position - index).unsqueeze(-1))
        alpha, sigma = angles.sin().unbind(-1)
        return alpha, sigma

    def _table(self, device: torch.device) -> Tensor:
        """(T + 1, 2): the angles whose sines are alpha and sigma. Both are kept, so that both zeros are exact."""
        if device not in self._tables:
            alpha_bars = torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bars])
            alpha, sigma = alpha_bars.sqrt(), (1 - alpha_bars).sqrt()
            angles = torch.stack([torch.atan2(alpha, sigma), torch.atan2(sigma, alpha)], dim=-1)
            self._tables[device] = angles.to(device=device, dtype=precision(device))
        return self._tables[device]


def schedule(kind: str, num_steps: int = 1000, zero_terminal_snr: bool = False) -> Schedule:
    """Make a noise schedule with a table of `num_steps` points.

    The published end points belong to 1000 steps: with another number the betas scale by 1000 / num_steps, as in
    improved DDPM, so that the path stays nearly the same: alpha moves by 0.016 at most with 100 steps and more, and by
    up to 0.12 with 20, 0.7 with 2. Cosine and rectified flow are functions of time, and stay. `zero_terminal_snr` (Lin
    et al. 2024, algorithm 1) makes alpha exactly 0 at t = 1.

    Raises ValueError for an unknown kind or a number of steps too small.
    """
    require(kind, SCHEDULES, "schedule")
    if num_steps < 1 + zero_terminal_snr:
        raise ValueError(f"a schedule of {num_steps} steps is too short: at least {1 + zero_terminal_snr}")
    if kind == "rectified-flow":
        t = torch.arange(1, num_steps + 1, dtype=torch.float64) / num_steps
        return Schedule(kind, num_steps, True, (1 - t) ** 2)
    alpha_bars = torch.cumprod(1 - BETAS[kind](num_steps).clamp(max=MAX_BETA), dim=0)
    if zero_terminal_snr:
        alphas = alpha_bars.sqrt()
        alphas = (alphas - alphas[-1]) * (alphas[0] / (alphas[0] - alphas[-1]))
        alpha_bars = alphas**2
    return Schedule(kind, num_steps, zero_terminal_snr, alpha_bars)


def add_noise(x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return x_t = alpha x0 + sigma eps. alpha, sigma: broadcast against x0, as (B, 1, 1, 1) does."""
    return alpha * x0 + sigma * eps


def precision(device: torch.device) -> torch.dtype:
    """Float64 wherever it exists; Apple's GPUs have none."""
    return torch.float32 if device.type == "mps" else torch.float64
