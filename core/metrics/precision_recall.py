"""How much of the samples lies in the reference's manifold and the other way round, in balls of nearest neighbours.

Precision and recall: Kynkäänniemi et al. 2019, k = 3. Density and coverage: Naeem et al. 2020, k = 5.
Real and fake are keyword arguments throughout: exchanged, precision silently becomes recall.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 1024
_ROUNDING = 1e-6  # of the features' norm: distances of copies, as differences of large numbers, are not quite 0


@dataclass(frozen=True)
class PrecisionRecall:
    """precision: share of fakes within a real's ball; recall: share of reals within a fake's ball; both in [0, 1]."""

    precision: float
    recall: float


@dataclass(frozen=True)
class DensityCoverage:
    """density: mean number of real balls around a fake, over k; coverage: share of reals with a fake in their ball."""

    density: float
    coverage: float


def precision_recall(*, real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Return improved precision and recall of features real (N, D), fake (M, D), N, M > k.

    A ball reaches to the k-th nearest other sample of its own set, its border included.
    """
    real, fake = _prepare(real, fake)
    radii_real, radii_fake = squared_radii(real, k), squared_radii(fake, k)
    in_real = torch.cat([(d <= radii_real).any(1) for d in _squared_distances(fake, real)])
    in_fake = torch.cat([(d <= radii_fake).any(1) for d in _squared_distances(real, fake)])
    return PrecisionRecall(float(in_real.double().mean()), float(in_fake.double().mean()))


def density_coverage(*, real: Tensor, fake: Tensor, k: int = 5) -> DensityCoverage:
    """Return density and coverage of features real (N, D), fake (M, D), N > k, M ≥ 1. Balls are open, around reals."""
    real, fake = _prepare(real, fake)
    radii = squared_radii(real, k)
    balls, nearest = 0, torch.full_like(radii, torch.inf)
    for distances in _squared_distances(fake, real):
        balls += int((distances < radii).sum())
        nearest = torch.minimum(nearest, distances.amin(0))
    return DensityCoverage(balls / (k * len(fake)), float((nearest < radii).double().mean()))


def nearest_ratio(*, real: Tensor, fake: Tensor) -> float | None:
    """Return how far a fake is from its nearest real, over how far a real is from its nearest other one; medians.

    About 1 for fresh samples of the same kind; far below it where samples copy the reference. real (N, D), N > 1;
    fake (M, D). None for a reference of which most images have a copy: their distance is 0.
    """
    real, fake = _prepare(real, fake)
    among_reals = squared_radii(real, 1).median().sqrt()
    to_reals = torch.cat([d.amin(1) for d in _squared_distances(fake, real)]).median().sqrt()
    rounding = _ROUNDING * real.square().sum(1).mean().sqrt()
    return float(to_reals / among_reals) if among_reals > rounding else None


def squared_radii(features: Tensor, k: int) -> Tensor:
    """Return each sample's squared distance to its k-th nearest other sample: (N, D), N > k → (N,)."""
    assert 1 <= k < len(features), f"k = {k} neighbours among {len(features)} samples"
    radii = []
    for start, distances in zip(range(0, len(features), ROWS), _squared_distances(features, features), strict=True):
        rows = torch.arange(len(distances), device=features.device)
        distances[rows, start + rows] = torch.inf
        radii.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(radii)


def _prepare(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float64, moved to the reals' mean, which costs squared distances nothing but rounding error."""
    assert real.ndim == fake.ndim == 2 and real.shape[1] == fake.shape[1]
    real, fake = real.double(), fake.double()
    mean = real.mean(0)
    return real - mean, fake - mean


def _squared_distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Yield |x_i − y_j|² for chunks of rows of x: (N, D), (M, D) → blocks (≤ ROWS, M)."""
    norms = y.square().sum(1)
    for rows in x.split(ROWS):
        yield torch.addmm(norms + rows.square().sum(1, keepdim=True), rows, y.T, alpha=-2).clamp_(min=0)
