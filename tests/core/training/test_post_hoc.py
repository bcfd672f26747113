"""Post-hoc EMA against quadrature, against the EMA itself, and against averages that were tracked beside it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from ldm.core.training.ema import EMA
from ldm.core.training.post_hoc import ema_profile, fit, gamma, power_profile

DECAY, STEPS = 0.95, 800


@pytest.mark.parametrize(("std", "published"), [(0.05, 16.97), (0.10, 6.94)])
def test_gamma_is_that_of_the_paper_and_the_profile_has_the_deviation_by_quadrature(
    std: float, published: float
) -> None:
    found = gamma(std)
    assert found == pytest.approx(published, abs=5e-3)
    t = (np.arange(200_000) + 0.5) / 200_000
    density = (found + 1) * t**found / len(t)
    mean = density @ t
    assert np.sqrt(density @ (t - mean) ** 2) == pytest.approx(std, rel=1e-4)


def test_a_power_profile_is_that_of_its_recursion() -> None:
    exponent, profile = 6.94, np.array([1.0])
    for t in range(1, 51):
        beta = (1 - 1 / t) ** (exponent + 1)
        profile = np.append(beta * profile, 1 - beta)
    np.testing.assert_allclose(power_profile(exponent, 50), profile, atol=1e-15)


@pytest.mark.parametrize("decay", [0.05, 0.5, 0.9999])
def test_the_profile_of_an_ema_is_what_its_updates_do(decay: float) -> None:
    """With one-hot weights, the average is its profile."""
    module = nn.Linear(31, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.eye(31)[:1])
    ema = EMA(module, decay)
    for step in range(1, 31):
        with torch.no_grad():
            module.weight.copy_(torch.eye(31)[step : step + 1])
        ema.update()
    np.testing.assert_allclose(ema.state()["weight"][0].numpy(), ema_profile(decay, 30), atol=1e-7)


@pytest.mark.parametrize("wanted", [power_profile(5.0, 300), ema_profile(0.99, 300), ema_profile(0.9, 300)])
def test_the_fit_is_the_solution_of_the_normal_equations_with_a_sum_of_one(wanted: np.ndarray) -> None:
    kept = [40, 90, 180, 181, 300]
    profiles = np.zeros((5, 301))
    for profile, updates in zip(profiles, kept, strict=True):
        profile[: updates + 1] = ema_profile(0.97, updates)
    ones = np.ones((5, 1))
    system = np.block([[profiles @ profiles.T, ones], [ones.T, np.zeros((1, 1))]])
    expected = np.linalg.solve(system, np.append(profiles @ wanted, 1))[:5]
    found = fit(0.97, kept, wanted)
    np.testing.assert_allclose(found.weights, expected, atol=1e-10)
    assert found.weights.sum() == pytest.approx(1, abs=1e-12)
    misfit = np.linalg.norm(expected @ profiles - wanted) / np.linalg.norm(wanted)
    assert found.misfit == pytest.approx(misfit, rel=1e-9)


def test_the_last_average_alone_makes_itself_and_no_other() -> None:
    own = fit(DECAY, [STEPS], ema_profile(DECAY, STEPS))
    assert own.weights.tolist() == pytest.approx([1.0]) and own.misfit < 1e-12
    assert fit(DECAY, [STEPS], ema_profile(0.99, STEPS)).misfit > 0.3


def tracked(beta: Callable[[int], float]) -> tuple[nn.Linear, list[dict[str, torch.Tensor]], list[int], torch.Tensor]:
    """Train a tiny network, keeping EMAs and tracking another average beside, in float64, by its β of update t."""
    torch.manual_seed(0)
    module, target = nn.Linear(16, 8), nn.Linear(16, 8)
    optimizer, ema = torch.optim.Adam(module.parameters(), lr=3e-3), EMA(module, DECAY)
    other, kept, updates = module.weight.detach().double(), [], []
    for step in range(1, STEPS + 1):
        x = torch.randn(4, 16)
        optimizer.zero_grad()
        ((module(x) - target(x).detach() - 0.3 * torch.randn(4, 8)) ** 2).mean().backward()
        optimizer.step()
        ema.update()
        other = beta(step) * other + (1 - beta(step)) * module.weight.detach().double()
        if step % 5 == 0:
            kept.append({name: tensor.clone() for name, tensor in ema.state().items()})
            updates.append(step)
    return module, kept, updates, other


@pytest.mark.parametrize("kind", ["decay 0.98", "decay 0.9", "std 0.05", "std 0.2"])
def test_a_combination_is_nearly_the_average_that_was_tracked(kind: str) -> None:
    setting, value = kind.split()
    if setting == "decay":
        decay, wanted = float(value), ema_profile(float(value), STEPS)
        *_, kept, updates, other = tracked(lambda t: min(decay, t / (9 + t)))
    else:
        exponent = gamma(float(value))
        wanted = power_profile(exponent, STEPS)
        *_, kept, updates, other = tracked(lambda t: (1 - 1 / t) ** (exponent + 1))
    found = fit(DECAY, updates, wanted)
    made = sum(weight * ema["weight"].double() for weight, ema in zip(found.weights, kept, strict=True))
    assert isinstance(made, torch.Tensor) and found.misfit < 0.25
    error, distance = (made - other).norm(), (kept[-1]["weight"] - other).norm()
    assert error < 0.1 * distance, f"{error / distance:.3f}"


def test_a_million_updates_and_a_hundred_averages_are_fitted_exactly() -> None:
    kept = [*range(10_000, 1_000_001, 10_000)]
    found = fit(0.9999, kept, power_profile(gamma(0.1), 1_000_000))
    assert np.isfinite(found.weights).all() and found.weights.sum() == pytest.approx(1, abs=1e-9)
    assert 0.2 < found.misfit < 0.3, "averages as far apart as the EMA is long: √(1 − 2 tanh(1/2)) = 0.28 at most"
