"""The dispersive loss in closed forms; what it does to training is in the stages' tests."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.core.diffusion.dispersive import TEMPERATURE, dispersed, dispersion, tap_of


def test_of_two_samples_it_is_the_logarithm_of_the_mean_over_four_pairs() -> None:
    states = torch.stack([torch.zeros(3, 4), torch.full((3, 4), 2.0)])
    assert float(dispersion(states)) == pytest.approx(math.log((1 + math.exp(-4 / TEMPERATURE)) / 2), rel=1e-6)


def test_it_is_nothing_where_all_are_alike_and_least_where_all_are_far_apart() -> None:
    assert float(dispersion(torch.ones(8, 5, 2))) == pytest.approx(0, abs=1e-6)
    far = 100 * torch.eye(8)
    assert float(dispersion(far)) == pytest.approx(-math.log(8), rel=1e-6)
    near = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    assert -math.log(8) < float(dispersion(2 * near)) < float(dispersion(near)) < 0


def test_samples_that_are_alike_have_a_finite_gradient() -> None:
    states = torch.ones(4, 6, requires_grad=True)
    dispersion(states).backward()
    assert states.grad is not None and bool(torch.isfinite(states.grad).all())


def test_the_states_are_those_after_a_quarter_of_the_blocks() -> None:
    assert [tap_of(depth) for depth in (1, 4, 6, 12, 28)] == [0, 0, 0, 2, 6]


def test_the_output_stays_as_it_was() -> None:
    def network(x_t: Tensor, t: Tensor, cond: dict[str, Tensor], taps: tuple[int, ...] = ()) -> Any:
        return (x_t + 1, {i: x_t * i for i in taps}) if taps else x_t + 1

    x, t, losses = torch.randn(3, 2, 4, 4), torch.rand(3), list[Tensor]()
    for _ in range(2):
        assert torch.equal(dispersed(network, 2, losses)(x, t, {}), x + 1)
    assert len(losses) == 2 and torch.equal(losses[0], dispersion(2 * x))
