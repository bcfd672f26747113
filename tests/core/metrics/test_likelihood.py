"""Bits per dimension: tight where everything is Gaussian and known, a bound elsewhere."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ldm.core.diffusion import variance
from ldm.core.diffusion.conditions import Cond
from ldm.core.diffusion.schedules import Schedule, schedule
from ldm.core.metrics.likelihood import Estimate, bits_per_dim

STD = 0.7
ENTROPY = 0.5 * math.log2(2 * math.pi * math.e * STD**2)
CPU = torch.device("cpu")


def batches(count: int = 400) -> Iterator[tuple[Tensor, Cond, Tensor]]:
    x0 = STD * torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    for start in range(0, count, 150):
        rows = torch.arange(start, min(start + 150, count))
        yield x0[rows], {}, rows


def exact(path: Schedule) -> Estimate:
    """The posterior mean of x0 ~ N(0, STD²), with the variance that the reverse step truly has, and both of DDPM's."""
    smallest = variance.step_variances(
        *path.alpha_sigma(torch.tensor(2 / path.num_steps, dtype=torch.float64)),
        *path.alpha_sigma(torch.tensor(1 / path.num_steps, dtype=torch.float64)),
    )[1]

    def estimate(x_t: Tensor, t: Tensor, cond: object) -> tuple[Tensor, dict[str, Tensor]]:
        step = (t.double() * path.num_steps).round().view(-1, 1, 1, 1)
        alpha, sigma = path.alpha_sigma(step / path.num_steps)
        alpha_s, sigma_s = path.alpha_sigma((step - 1) / path.num_steps)
        of_x_t = alpha**2 * STD**2 + sigma**2
        beta, posterior = variance.step_variances(alpha, sigma, alpha_s, sigma_s)
        true = posterior + (alpha_s * beta / sigma**2) ** 2 * STD**2 * sigma**2 / of_x_t
        lower = torch.where(step > 1, posterior, smallest)
        fraction = (true.log() - lower.log()) / (beta.log() - lower.log())
        fractions = {"true": fraction, "posterior": torch.zeros(()), "beta": torch.ones(())}
        return x_t * alpha * STD**2 / of_x_t, fractions

    return estimate


@pytest.mark.parametrize("kind", ["linear", "cosine", "rectified-flow"])
def test_the_bound_is_the_entropy_where_the_model_is_exact(kind: str) -> None:
    path = schedule(kind, 100)
    bounds = bits_per_dim(exact(path), path, batches(), num_times=99, seed=0, device=CPU)
    assert bounds["true"].total == pytest.approx(ENTROPY, abs=4 * bounds["true"].error + 0.01)
    assert bounds["true"].error < 0.06
    parts = bounds["true"]
    assert parts.total == pytest.approx(parts.first + parts.others + parts.prior)


def test_other_variances_and_a_worse_estimate_cost_bits() -> None:
    path = schedule("cosine", 100)
    right = exact(path)

    def worse(x_t: Tensor, t: Tensor, cond: object) -> tuple[Tensor, dict[str, Tensor]]:
        x0, fractions = right(x_t, t, cond)
        return x0 + 0.3, fractions

    best = bits_per_dim(right, path, batches(), 99, 0, CPU)
    assert best["true"].total < min(best["posterior"].total, best["beta"].total)
    assert bits_per_dim(worse, path, batches(), 99, 0, CPU)["true"].total > best["true"].total + 0.1


def test_few_times_estimate_what_all_times_give() -> None:
    path = schedule("linear", 100)
    few, all_of_them = (bits_per_dim(exact(path), path, batches(), n, 0, CPU)["true"] for n in (7, 99))
    assert few.total == pytest.approx(all_of_them.total, abs=4 * few.error)
    assert few.first == all_of_them.first and few.prior == all_of_them.prior


def test_the_numbers_do_not_depend_on_the_batches() -> None:
    path = schedule("cosine", 50)
    x0, _, rows = zip(*batches(200), strict=True)
    whole: list[tuple[Tensor, Cond, Tensor]] = [(torch.cat(x0), {}, torch.cat(rows))]
    split = bits_per_dim(exact(path), path, batches(200), 5, 0, CPU)["true"].total
    assert bits_per_dim(exact(path), path, whole, 5, 0, CPU)["true"].total == pytest.approx(split, rel=1e-9)


def test_the_other_steps_are_all_of_the_table_but_the_first() -> None:
    """The bound adds up T − 1 terms beside the first: of two steps, one."""
    path = schedule("cosine", 2)
    (x0, cond, rows), *_ = batches(50)

    def estimate(x_t: Tensor, t: Tensor, cond: object) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.zeros_like(x_t), {"beta": torch.ones(())}

    found = bits_per_dim(estimate, path, [(x0, cond, rows)], 1, 0, CPU)["beta"]
    # The term at t = 1 depends on x0 alone, as the estimate does not look at x_t.
    last = variance.vlb_bits(path, x0, x0, torch.ones(len(x0)), torch.zeros_like(x0), torch.ones(()))
    assert found.others == pytest.approx(float(last.mean()), rel=1e-6)
