"""Consistency models: on Gaussian data the function is known, and training by the objective finds it."""

import pytest
import torch
from torch import Tensor, nn

from ldm.core.diffusion.conditions import Cond
from ldm.core.diffusion.consistency import PROGRESS, Consistency, restarts
from ldm.core.diffusion.denoisers import denoiser
from ldm.core.diffusion.objective import Denoising
from ldm.core.diffusion.schedules import Schedule, schedule

STD = 0.5  # of the data, N(0, STD²)
FLOW = schedule("rectified-flow")


def exact(path: Schedule, x_t: Tensor, t: Tensor) -> Tensor:
    """Return the data at the end of the path: x_t scaled from the deviation that it has at t to the data's."""
    alpha, sigma = path.alpha_sigma(t)
    return x_t * STD / (alpha**2 * STD**2 + sigma**2).sqrt()


def test_the_function_of_gaussian_data_has_the_known_value() -> None:
    one, t = torch.ones((), dtype=torch.float64), torch.tensor(0.75, dtype=torch.float64)
    assert float(exact(FLOW, one, t)) == pytest.approx(0.6575959492, rel=1e-9)


@pytest.mark.parametrize("path", [FLOW, schedule("cosine")], ids=["flow", "cosine"])
@pytest.mark.parametrize("grid", [[1.0, 0.0], [1.0, 0.5, 0.0], [1.0, 0.7, 0.3, 0.1, 0.0]])
def test_restarts_from_the_exact_function_draw_the_data_in_any_number_of_steps(
    path: Schedule, grid: list[float]
) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200_000, 1, generator=g)

    def f(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return exact(path, x_t, t.float())

    drawn = restarts(
        f, x, path, torch.tensor(grid, dtype=torch.float64), {}, noise=lambda i: torch.randn(x.shape, generator=g)
    )
    assert float(drawn.std()) == pytest.approx(STD, rel=0.01) and abs(float(drawn.mean())) < 0.01


def test_the_gap_shrinks_by_its_factor_from_stage_to_stage_of_the_training() -> None:
    t, objective = torch.full((5,), 0.8), Consistency(FLOW, "flow", gap_factor=4.0, gap_stages=3)
    r = objective.earlier(t, torch.tensor([0.0, 0.32, 0.34, 0.67, 0.999]))
    torch.testing.assert_close((t - r) / t, torch.tensor([0.25, 0.25, 0.0625, 0.015625, 0.015625]))
    torch.testing.assert_close(objective.earlier(t, None), r[-1:].expand(5))


def test_no_gradient_flows_through_the_target() -> None:
    scale = nn.Parameter(torch.ones(()))
    seen: list[bool] = []

    def network(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        seen.append(torch.is_grad_enabled())
        return scale * x_t

    objective = Consistency(FLOW, "flow")
    given = {"noise": torch.randn(4, 1, 2, 2), "t": torch.full((4,), 0.5)}
    objective.loss(network, torch.zeros(4, 1, 2, 2), given, {}).sum().backward()
    assert seen == [False, True] and scale.grad is not None


@pytest.mark.parametrize("prediction", ["eps", "x0"])
def test_a_prediction_without_the_boundary_condition_is_refused(prediction: str) -> None:
    with pytest.raises(ValueError, match="predicts v or flow"):
        Consistency(schedule("cosine"), prediction)


class Line(nn.Module):
    """A velocity linear in x_t, with a slope that depends on t."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.slope(t[:, None]).view(-1, 1, 1, 1) * x_t


def trained(network: nn.Module, objective: Consistency | Denoising, steps: int) -> nn.Module:
    g = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        x0, noise = (torch.randn(256, 1, 1, 1, generator=g) for _ in range(2))
        t = torch.rand(256, generator=g).clamp(min=1e-4)
        given = {"noise": noise, "t": t, PROGRESS: torch.full((256,), step / steps)}
        loss = objective.loss(network, STD * x0, given, {}).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return network


@pytest.mark.parametrize("begin", ["from scratch", "from a denoiser"])
def test_training_finds_the_function_of_gaussian_data(begin: str) -> None:
    torch.manual_seed(0)
    network: nn.Module = Line()
    if begin == "from a denoiser":
        trained(network, Denoising(FLOW, "flow", "flow"), 200)
    f = denoiser(trained(network, Consistency(FLOW, "flow", gap_stages=6), 400), FLOW, "flow")
    for time in (1.0, 0.75, 0.5):
        t, x = torch.tensor(time, dtype=torch.float64), torch.ones(1, 1, 1, 1)
        with torch.no_grad():
            found = float(f(x, t, {}))
        assert found == pytest.approx(float(exact(FLOW, x, t.float())), abs=0.03), time
    # A denoiser's estimate at t = 1 is the mean of the data, 0; one call of f draws the data's deviation.
