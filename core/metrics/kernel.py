"""The kernel distance: squared maximum mean discrepancy with a cubic polynomial kernel (Bińkowski et al. 2018, KID).

Its estimator is unbiased, so that small sets do not look worse than large ones, and it may be slightly negative.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..seeds import generator


@dataclass(frozen=True)
class KernelDistance:
    """Mean and standard deviation over subsets, with how many there were and how large."""

    mean: float
    std: float
    subsets: int
    subset_size: int


def polynomial_kernel(x: Tensor, y: Tensor) -> Tensor:
    """Return k(x, y) = (x·y / D + 1)³ for all pairs: (N, D), (M, D) → (N, M)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """Return the unbiased estimate of the squared MMD of features (N, D) and (M, D), N, M ≥ 2, in float64.

    Gretton et al. 2012, eq. 3: pairs within a set leave out each sample with itself.
    """
    assert len(x) >= 2 and len(y) >= 2 and x.shape[1] == y.shape[1]
    x, y = x.double(), y.double()
    within = _mean_off_diagonal(polynomial_kernel(x, x)) + _mean_off_diagonal(polynomial_kernel(y, y))
    return float(within - 2 * polynomial_kernel(x, y).mean())


def kernel_distance(x: Tensor, y: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> KernelDistance:
    """Return the squared MMD averaged over random subsets of equal size, drawn without replacement from each set.

    x (N, D), y (M, D). The size is at most that of the smaller set; subset i depends on (seed, i) alone.
    """
    size = min(subset_size, len(x), len(y))
    estimates = []
    for i in range(subsets):
        draws = generator(seed, "kernel distance", i)
        rows_x = torch.from_numpy(draws.choice(len(x), size, replace=False)).to(x.device)
        rows_y = torch.from_numpy(draws.choice(len(y), size, replace=False)).to(y.device)
        estimates.append(squared_mmd(x[rows_x], y[rows_y]))
    values = torch.tensor(estimates, dtype=torch.float64)
    return KernelDistance(float(values.mean()), float(values.std(correction=0)), subsets, size)


def _mean_off_diagonal(kernel: Tensor) -> Tensor:
    n = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1))
