"""Statistics of latents over a stream of batches, and the rotation that gives all channels the same deviation."""

import torch
from torch import Tensor


class LatentStatistics:
    """Mean and covariance of the latent channels over a stream of batches, float64.

    Batches are merged by their means and squared deviations (Chan, Golub & LeVeque 1979), which does not cancel
    where the mean is large against the deviation.
    """

    def __init__(self, num_channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(num_channels, dtype=torch.float64)
        self._products = torch.zeros(num_channels, num_channels, dtype=torch.float64)

    def add(self, latents: Tensor) -> None:
        """Add a batch (B, C, h, w) of any float type, on any device, in any layout."""
        rows = latents.detach().cpu().double().transpose(0, 1).flatten(1).contiguous()  # Sums round by layout.
        assert rows.shape[0] == len(self.mean), f"latents of shape {tuple(latents.shape)}"
        if rows.shape[1]:
            mean = rows.mean(dim=1)
            centred = rows - mean[:, None]
            self._merge(rows.shape[1], mean, centred @ centred.T)

    def merge(self, other: "LatentStatistics") -> None:
        """Add what was measured elsewhere. The last digits depend on the order of the parts."""
        if other.count:
            self._merge(other.count, other.mean, other._products)

    def _merge(self, count: int, mean: Tensor, products: Tensor) -> None:
        difference, total = mean - self.mean, self.count + count
        self._products += products + torch.outer(difference, difference) * (self.count * count / total)
        self.mean = self.mean + difference * (count / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """The covariance (C, C) of all values seen, float64."""
        assert self.count > 0, "no latents were added"
        return self._products / self.count

    @property
    def std(self) -> Tensor:
        """The deviation (C,) of all values seen, float64."""
        return self.covariance.diagonal().sqrt()


def evening_rotation(covariance: Tensor) -> Tensor:
    """Return an orthogonal R for which R Σ Rᵀ has an even diagonal, float64 (C, C).

    covariance: Σ, symmetric, positive semidefinite, (C, C). Turns, C − 1 times at most, the plane of a channel with too
    little variance and one with too much until one of them has the mean (Bendel & Mickey 1978).
    """
    turned = covariance.double().clone()
    num = len(turned)
    rotation = torch.eye(num, dtype=torch.float64)
    mean = turned.diagonal().mean()
    for _ in range(num - 1):
        variances = turned.diagonal()
        low, high = int(variances.argmin()), int(variances.argmax())
        below, above = variances[low] - mean, variances[high] - mean
        if above <= 1e-12 * mean or below >= -1e-12 * mean:
            break
        # The tangent t of the angle solves above t² + 2 Σ_lh t + below = 0; of its two roots the smaller turns least.
        half = turned[low, high]
        root = (half**2 - above * below).sqrt()
        tangent = -below / (half + torch.where(half >= 0, root, -root))
        cosine = (1 + tangent**2).rsqrt()
        plane = torch.eye(num, dtype=torch.float64)
        plane[low, low] = plane[high, high] = cosine
        plane[low, high], plane[high, low] = tangent * cosine, -tangent * cosine
        turned, rotation = plane @ turned @ plane.T, plane @ rotation
    return rotation
