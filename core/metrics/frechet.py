"""The Fréchet distance between two sets of features, each taken as a Gaussian (Heusel et al. 2017).

d² = |μ_a − μ_b|² + tr Σ_a + tr Σ_b − 2 tr (Σ_a Σ_b)^½. Called FID only in the features of Inception-v3.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import DataError
from ..features.extractor import Extractor
from ..files import read_json, sha256_file, write_atomically, write_json
from ..runs.weights import read_safetensors, require_sha256

TENSORS = "statistics.safetensors"
DESCRIPTION = "statistics.json"


@dataclass(frozen=True)
class GaussianStatistics:
    """Number, mean (D,) and scatter Σ (f − mean)(f − mean)ᵀ (D, D) of a set of features; float64, on the CPU."""

    n: int
    mean: Tensor
    scatter: Tensor

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (D, D), float64."""
        assert self.n >= 2, "a covariance needs two samples"
        return self.scatter / (self.n - 1)

    def merge(self, other: "GaussianStatistics") -> "GaussianStatistics":
        """Return the statistics of both sets together (Chan, Golub and LeVeque 1979)."""
        n = self.n + other.n
        delta = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(delta, delta) * (self.n * other.n / n)
        return GaussianStatistics(n, self.mean + delta * (other.n / n), scatter)


def statistics_of(features: Tensor) -> GaussianStatistics:
    """Return the statistics of features (N, D), N ≥ 1. Batches of a stream are joined with `merge`."""
    assert features.ndim == 2 and len(features) > 0, f"features (N, D), not {tuple(features.shape)}"
    features = features.detach().cpu().double()
    mean = features.mean(0)
    centred = features - mean
    return GaussianStatistics(len(features), mean, centred.T @ centred)


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """Return the squared Fréchet distance between two Gaussians, in float64; 0 for equal ones, never negative.

    With Σ = R Rᵀ, tr (Σ_a Σ_b)^½ is the sum of the singular values of R_aᵀ R_b. That keeps full accuracy where
    covariances are singular (fewer samples than features), which the square root of a product's eigenvalues does not.
    """
    assert a.mean.shape == b.mean.shape, f"{a.mean.shape} features against {b.mean.shape}"
    root_a, root_b = _root(a.covariance), _root(b.covariance)
    trace_root = torch.linalg.svdvals(root_a.T @ root_b).sum()
    difference = (a.mean - b.mean).square().sum()
    squared = difference + root_a.square().sum() + root_b.square().sum() - 2 * trace_root
    return max(0.0, float(squared))


def _root(covariance: Tensor) -> Tensor:
    """Return R (D, rank) with R Rᵀ = covariance; eigenvalues that rounding made negative are dropped."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > 0
    return vectors[:, kept] * values[kept].sqrt()


def save_statistics(statistics: GaussianStatistics, extractor: Extractor, folder: Path) -> None:
    """Write statistics into an existing folder: tensors as safetensors, what they belong to as JSON, written last."""
    tensors = {"mean": statistics.mean, "scatter": statistics.scatter}
    write_atomically(folder / TENSORS, lambda path: save_file(tensors, path))
    described = {
        "kind": "feature statistics",
        "n": statistics.n,
        "extractor": extractor.name,
        "weights_sha256": extractor.weights_sha256,
        "resize": extractor.resize,
        "dim": extractor.dim,
        "sha256": sha256_file(folder / TENSORS),
    }
    write_json(folder / DESCRIPTION, described)


def load_statistics(folder: Path, extractor: Extractor) -> GaussianStatistics:
    """Read statistics that were taken with this very extractor.

    Raises DataError naming the file when it is missing or damaged, or when extractor, weights or resize differ.
    """
    remedy = f"take the statistics of the reference again with the {extractor.name} extractor"
    path = folder / DESCRIPTION
    described = read_json(path, remedy)
    expected = {
        "kind": "feature statistics",
        "extractor": extractor.name,
        "weights_sha256": extractor.weights_sha256,
        "resize": extractor.resize,
        "dim": extractor.dim,
    }
    for key, value in expected.items():
        if described.get(key) != value:
            raise DataError(f"{path} has {key} {described.get(key)!r}, not {value!r}", remedy)
    n = described.get("n")
    if not isinstance(n, int) or n < 2:
        raise DataError(f"{path} has n {n!r}", remedy)
    require_sha256(folder / TENSORS, str(described.get("sha256")), remedy)
    tensors = read_safetensors(folder / TENSORS, remedy)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != {"mean": (extractor.dim,), "scatter": (extractor.dim, extractor.dim)}:
        raise DataError(f"{folder / TENSORS} holds tensors of shapes {shapes}", remedy)
    return GaussianStatistics(n, tensors["mean"].double(), tensors["scatter"].double())
