"""Denoisers that need no training: the exact E[x0 | x_t] of normal mixtures, and their exact flow.

They show and measure samplers and guidance without the error of a network.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .schedules import Schedule
from .times import broadcast


@dataclass(frozen=True, eq=False)
class Mixture:
    """Numbers drawn from normal distributions, all float64.

    means, stds: (K,). weights: (C, K), a row of shares that add up to 1 for every label; labels (B,) choose rows.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor

    def density(self, x: Tensor, label: int) -> Tensor:
        """Return p(x | label) of the data, in x's shape."""
        z = (x[..., None] - self.means) / self.stds
        bells = torch.exp(-0.5 * z**2) / (self.stds * (2 * torch.pi) ** 0.5)
        return (self.weights[label] * bells).sum(-1)

    def denoise(self, schedule: Schedule, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Return E[x0 | x_t, label]; x_t (B, ...), every number a sample of its own.

        Each part moves its mean by regression on x_t, and counts by how likely it is to have made x_t (Bayes).
        """
        alpha, sigma = (level[..., None] for level in schedule.alpha_sigma(broadcast(t, x_t)))
        variance = alpha**2 * self.stds**2 + sigma**2
        residual = x_t[..., None] - alpha * self.means
        shares = self.weights[labels].view(len(x_t), *(1,) * (x_t.ndim - 1), -1)
        parts = (shares.log() - 0.5 * variance.log() - residual**2 / (2 * variance)).softmax(-1)
        return (parts * (self.means + alpha * self.stds**2 / variance * residual)).sum(-1)

    def flow(self, schedule: Schedule, x: Tensor, t: float, s: float, label: int) -> Tensor:
        """Carry x from time t to s along the exact probability flow.

        Paths of numbers cannot cross, so each keeps its rank: what x is among x_t, the result is among x_s. The rank
        is inverted by bisection, to float64's precision where the density is not negligible.
        """
        rank = self._rank(schedule, x, t, label)
        low, high = torch.full_like(x, -1e3), torch.full_like(x, 1e3)
        for _ in range(80):
            middle = (low + high) / 2
            below = self._rank(schedule, middle, s, label) < rank
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def _rank(self, schedule: Schedule, x: Tensor, t: float, label: int) -> Tensor:
        """P(x_t ≤ x | label)."""
        alpha, sigma = schedule.alpha_sigma(torch.tensor(t, dtype=torch.float64))
        z = (x[..., None] - alpha * self.means) / (alpha**2 * self.stds**2 + sigma**2).sqrt()
        return (self.weights[label] * torch.special.ndtr(z)).sum(-1)
