"""The kernel distance against a double loop and its expectation."""

import pytest
import torch
from torch import Tensor

from ldm.core.metrics.kernel import kernel_distance, squared_mmd


def draw(n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_squared_mmd_is_the_double_loop_over_pairs() -> None:
    x, y = draw(5, 3, 1), draw(7, 3, 2) + 0.5

    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within_x = sum(k(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / (5 * 4)
    within_y = sum(k(y[i], y[j]) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    across = sum(k(a, b) for a in x for b in y) / (5 * 7)
    assert squared_mmd(x, y) == pytest.approx(within_x + within_y - 2 * across, rel=1e-12)


def test_estimate_is_unbiased_for_sets_of_any_size() -> None:
    # Both sets are standard normal, so the expectation is 0; the biased estimate is about 2/n · E k(x, x) = 32/n.
    for n in (3, 10):
        estimates = torch.tensor([squared_mmd(draw(n, 2, 2 * i), draw(n, 2, 2 * i + 1)) for i in range(800)])
        standard_error = float(estimates.std()) / 800**0.5
        assert abs(float(estimates.mean())) < 4 * standard_error
        assert standard_error < 0.3


def test_expected_squared_mmd_of_a_shifted_line_is_met() -> None:
    # One dimension, x ~ N(0, 1), y ~ N(m, 1): (xy + 1)³ has expectation 1 + 3 E[x]E[y] + 3 E[x²]E[y²] + E[x³]E[y³].
    m = 0.5
    moments_x, moments_y = (0.0, 1.0, 0.0), (m, 1 + m**2, m**3 + 3 * m)
    expected = sum(c * (a - b) ** 2 for c, a, b in zip((3, 3, 1), moments_x, moments_y, strict=True))
    assert squared_mmd(draw(2000, 1, 5), draw(2000, 1, 6) + m) == pytest.approx(expected, rel=0.15)


def test_one_subset_of_everything_is_the_full_estimate() -> None:
    x, y = draw(20, 4, 1), draw(20, 4, 2)
    result = kernel_distance(x, y, subsets=3, subset_size=1000)
    assert result.subset_size == 20
    assert result.mean == pytest.approx(squared_mmd(x, y), rel=1e-9)
    assert result.std == pytest.approx(0, abs=1e-12)


def test_same_seed_same_number_other_seed_another() -> None:
    x, y = draw(60, 4, 1), draw(50, 4, 2)
    first = kernel_distance(x, y, subsets=5, subset_size=20, seed=3)
    assert first == kernel_distance(x, y, subsets=5, subset_size=20, seed=3)
    assert first.mean != kernel_distance(x, y, subsets=5, subset_size=20, seed=4).mean


def test_every_subset_is_another_one() -> None:
    x, y = draw(60, 4, 1), draw(50, 4, 2)
    assert kernel_distance(x, y, subsets=5, subset_size=20).std > 1e-3
    first, second = (kernel_distance(x, y, subsets=n, subset_size=20).mean for n in (1, 2))
    assert first != second
