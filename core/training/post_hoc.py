"""Post-hoc EMA: the EMA of another length as a linear combination of those that a training kept.

Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models", section 3. An average is a sum
over the weights after each update; its profile is the coefficient of each, from index 0, the initial weights, to the
last update. Profiles add as the averages do, so that the combination whose profile is nearest to the wanted one is
found without looking at a weight.

All averages of a training follow one recursion, so that between two of them each later one is the earlier one, decayed,
plus a piece of its own. Pieces do not overlap: each is fitted alone, and no system of equations is solved.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .ema import decays
from .settings import LONGEST_STD


@dataclass(frozen=True)
class Combination:
    """weights: of each average, float64 (N,), their sum is 1. misfit: ‖profile − wanted‖ / ‖wanted‖."""

    weights: np.ndarray
    misfit: float


def gamma(std: float) -> float:
    """Return the exponent of the power function whose profile has a relative standard deviation, above 0, up to 0.28.

    Karras et al. 2024, section 3: σ_rel² = (γ + 1) / ((γ + 2)² (γ + 3)), of which γ is the largest root.
    """
    assert 0 < std <= LONGEST_STD, f"std {std}"
    t = std**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def power_profile(gamma: float, updates: int) -> np.ndarray:
    """Return the profile of a power function EMA, float64 (updates + 1,).

    Karras et al. 2024, section 3: θ(t) = (γ + 1) / t^(γ+1) ∫ τ^γ θ(τ) dτ, over each update; the same as the recursion
    average ← β · average + (1 − β) · weight with β = (1 − 1/t)^(γ+1).
    """
    return np.diff((np.arange(updates + 1) / updates) ** (gamma + 1), prepend=0.0)


def ema_profile(decay: float, updates: int) -> np.ndarray:
    """Return the profile of `EMA` after so many updates, float64 (updates + 1,). decay: greater than 0."""
    d, logs = _recursion(decay, updates)
    profile: np.ndarray = (1 - d) * np.exp(logs[-1] - logs)
    return profile


def fit(decay: float, kept: Sequence[int], wanted: np.ndarray) -> Combination:
    """Fit averages of a decay greater than 0 to a profile by least squares, so that the weights' sum is 1.

    kept: after how many updates each was kept, rising; the last is that which `wanted` ends at, (kept[-1] + 1,).
    """
    ends = np.array(kept)
    assert (np.diff(ends, prepend=0) > 0).all() and len(wanted) == ends[-1] + 1, f"{kept} for {len(wanted)}"

    # The piece of each average: its profile over the updates since the one before.
    d, logs = _recursion(decay, int(ends[-1]))
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = np.diff(starts, append=ends[-1] + 1)
    piece = (1 - d) * np.exp(np.repeat(logs[ends], lengths) - logs)

    # Least squares of each piece alone, then moved to the sum of 1 by a multiplier of Lagrange.
    mass, square, along = (np.add.reduceat(each, starts) for each in (piece, piece**2, piece * wanted))
    share = along / square
    share += (1 - share @ mass) / (mass**2 / square).sum() * mass / square
    misfit = np.linalg.norm(np.repeat(share, lengths) * piece - wanted) / np.linalg.norm(wanted)

    # From pieces to averages: a piece is its average less the one before, decayed.
    weights = share.copy()
    weights[:-1] -= share[1:] * np.exp(np.diff(logs[ends]))
    return Combination(weights, float(misfit))


def _recursion(decay: float, updates: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the decay of each index, which is 0 for the initial weights, and the sum of logarithms since then."""
    assert 0 < decay < 1 and updates > 0, f"decay {decay}, {updates} updates"
    d = decays(decay, 0, updates)
    return np.concatenate([[0.0], d]), np.concatenate([[0.0], np.cumsum(np.log(d))])
