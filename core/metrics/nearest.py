"""The reference images nearest to a sample, in feature space: whether a model generates or memorises."""

from dataclasses import dataclass

import torch
from torch import Tensor

_ROWS = 4096
_EXACT = "donot_use_mm_for_euclid_dist"  # matrix products lose the small differences of close images


@dataclass(frozen=True)
class Neighbours:
    """Of each of M samples the k nearest of N others: indices int64 (M, k), the nearest first, and distances (M, k)."""

    indices: Tensor
    distances: Tensor


def neighbours(samples: Tensor, others: Tensor, k: int) -> Neighbours:
    """Find the k nearest of `others` (N, D) to each of `samples` (M, D), N ≥ k; exact differences, in float64."""
    assert samples.shape[1] == others.shape[1] and 1 <= k <= len(others)
    samples = samples.double()
    distances = torch.cat([torch.cdist(samples, rows.double(), compute_mode=_EXACT) for rows in others.split(_ROWS)], 1)
    nearest = distances.topk(k, largest=False)
    return Neighbours(nearest.indices, nearest.values)
