"""A student's target takes one step where the teacher takes two; on Gaussian data all of it is known."""

import math

import pytest
import torch
from torch import Tensor

from ldm.core.diffusion import samplers
from ldm.core.diffusion.conditions import Cond
from ldm.core.diffusion.denoisers import Denoiser
from ldm.core.diffusion.distillation import CFG, Distillation, guided_by_sample, two_step_target
from ldm.core.diffusion.schedules import Schedule, schedule

STD = 0.5  # of the data, N(0, STD²)


class Cosine:
    """α = cos(πt/2), without the offset of the published schedule."""

    kind, zero_terminal_snr, variance_preserving = "cosine", True, True

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cos(t.double() * math.pi / 2), torch.sin(t.double() * math.pi / 2)

    def log_snr(self, t: Tensor) -> Tensor:
        alpha, sigma = self.alpha_sigma(t)
        return 2 * (alpha / sigma).log()


def exact(path: Schedule | Cosine) -> Denoiser:
    """Return E[x0 | x_t] of the data."""

    def denoise(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        alpha, sigma = path.alpha_sigma(t if t.ndim == 0 else t.view(-1, *(1,) * (x_t.ndim - 1)))
        return alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * x_t

    return denoise


def times(*of: float) -> list[Tensor]:
    return [torch.tensor([each], dtype=torch.float64) for each in of]


@pytest.mark.parametrize(
    ("steps", "target"), [(1, 0.2), (2, 0.05816527587439618), (4, 0.0255946497), (8, 0.0124007795)]
)
def test_targets_on_gaussian_data_are_the_known_ones(steps: int, target: float) -> None:
    path, z = Cosine(), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    triple = times(1.0, 1 - 0.5 / steps, 1 - 1 / steps)
    assert float(two_step_target(exact(path), path, z, triple, {})) == pytest.approx(target, rel=1e-8)  # type: ignore[arg-type]


def test_on_the_straight_path_the_targets_velocity_is_the_mean_of_the_teachers_two() -> None:
    path, z = schedule("rectified-flow"), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    x0 = two_step_target(exact(path), path, z, times(1.0, 0.75, 0.5), {})
    assert float(x0) == pytest.approx(0.0540540541, rel=1e-6)
    assert float(z - x0) == pytest.approx(0.9459459459, rel=1e-6)


@pytest.mark.parametrize("name", ["cosine", "linear", "rectified-flow"])
def test_one_step_with_the_target_ends_where_the_teachers_two_end(name: str) -> None:
    path, z = schedule(name), torch.randn(4, 2, 3, 3, dtype=torch.float64)
    grid = torch.tensor([0.9, 0.7, 0.5], dtype=torch.float64)
    two = samplers.ddim(exact(path), z, path, grid, {})
    target = two_step_target(exact(path), path, z, [each.expand(4) for each in grid], {})
    one = samplers.ddim(lambda x_t, t, cond: target, z, path, grid[[0, 2]], {})
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def test_at_the_last_step_the_target_is_the_teachers_second_x0() -> None:
    path, z, seen = schedule("cosine"), torch.randn(3, 1, 2, 2, dtype=torch.float64), []

    def teacher(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        seen.append(exact(path)(x_t, t, cond))
        return seen[-1]

    triple = [torch.full((3,), t, dtype=torch.float64) for t in (0.5, 0.25, 0.0)]
    torch.testing.assert_close(two_step_target(teacher, path, z, triple, {}), seen[1])


@pytest.mark.parametrize(("name", "prediction"), [("cosine", "v"), ("cosine", "x0"), ("rectified-flow", "flow")])
def test_a_student_that_predicts_the_target_has_no_loss_and_others_have(name: str, prediction: str) -> None:
    path = schedule(name, zero_terminal_snr=name == "cosine")
    objective = Distillation(path, exact(path), 4, prediction)
    x0 = torch.randn(64, 1, 2, 2) * STD
    given = objective.draw(lambda purpose: torch.randn(64, 1, 2, 2), lambda purpose: torch.arange(64) / 64)
    assert torch.bincount(given["step"]).tolist() == [16] * 4

    def student(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        triple = [t, *(objective.grid[2 * given["step"] + i].float() for i in (1, 2))]
        wanted = two_step_target(exact(path), path, x_t, triple, cond)
        alpha, sigma = (each.view(-1, 1, 1, 1) for each in path.alpha_sigma(t))
        eps = (x_t - alpha * wanted) / sigma
        return {"v": alpha * eps - sigma * wanted, "x0": wanted, "flow": eps - wanted}[prediction]

    assert float(objective.loss(student, x0, given, {}).max()) < 1e-6
    assert float(objective.loss(lambda x_t, t, cond: x_t + 1, x0, given, {}).min()) > 1e-3


def test_the_shift_moves_the_students_times_as_it_moves_the_samplers() -> None:
    path = schedule("rectified-flow")
    grid = Distillation(path, exact(path), 2, "flow", shift=3.0).grid
    torch.testing.assert_close(grid, torch.tensor([1, 0.9, 0.75, 0.5, 0], dtype=torch.float64))


def test_each_sample_is_guided_at_its_own_scale() -> None:
    def denoise(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return x_t + cond["labels"].view(-1, 1, 1, 1)

    guided = guided_by_sample(denoise, lambda cond: {"labels": torch.zeros_like(cond["labels"])})
    cond = {"labels": torch.tensor([2.0, 2.0, 5.0]), CFG: torch.tensor([1.0, 3.0, 0.0])}
    out = guided(torch.zeros(3, 1, 1, 1), torch.ones(3), cond)
    assert out.flatten().tolist() == [2.0, 6.0, 0.0]


def test_scales_are_drawn_in_their_range_and_reach_teacher_and_student() -> None:
    seen: list[Tensor] = []

    def both(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        seen.append(cond[CFG])
        return x_t

    objective = Distillation(schedule("rectified-flow"), both, 2, "flow", guidance=(1.0, 4.0))
    given = objective.draw(lambda purpose: torch.randn(8, 1, 1, 1), lambda purpose: torch.arange(8) / 8)
    objective.loss(both, torch.zeros(8, 1, 1, 1), given, {})
    assert len(seen) == 3 and all(torch.equal(each, given[CFG]) for each in seen)
    assert float(given[CFG].min()) == 1.0 and float(given[CFG].max()) < 4.0


def test_a_network_that_predicts_the_noise_is_refused() -> None:
    path = schedule("linear")
    with pytest.raises(ValueError, match="predicts the noise cannot be distilled"):
        Distillation(path, exact(path), 4, "eps")
