"""Our schedules as diffusers' schedulers: the same levels, the same steps, and the way back."""

from typing import Any

import pytest
import torch

from ldm.core.diffusion import samplers, times
from ldm.core.diffusion.denoisers import denoiser
from ldm.core.diffusion.schedules import BETAS, schedule
from ldm.core.errors import ConfigError, DataError
from ldm.core.interchange.scheduler import FLOW, FLOW_MATCH, ahead_of, from_diffusers, to_diffusers

LINEAR = {"beta_schedule": "linear"}
KINDS = [(kind, zero) for kind in BETAS for zero in (False, True)]


@pytest.mark.parametrize(("kind", "zero"), KINDS)
@pytest.mark.parametrize("num_steps", [1000, 50])
def test_the_levels_are_ours_at_every_step(kind: str, zero: bool, num_steps: int) -> None:
    ours = schedule(kind, num_steps, zero)
    theirs = to_diffusers(ours, "v", 1000.0)
    alpha, sigma = ours.alpha_sigma(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    bars = theirs.alphas_cumprod.double()
    torch.testing.assert_close(bars.sqrt(), alpha, rtol=0, atol=1e-6)
    torch.testing.assert_close((1 - bars).sqrt(), sigma, rtol=0, atol=1e-5)
    assert not zero or bars[-1] == 0


@pytest.mark.parametrize(
    ("kind", "zero", "prediction", "num_steps", "steps"),
    [
        ("cosine", False, "v", 1000, 20),
        ("linear", False, "eps", 1000, 50),
        ("cosine", True, "v", 1000, 10),
        ("scaled-linear", True, "x0", 1000, 8),
        ("cosine", False, "v", 100, 20),
        ("rectified-flow", False, "flow", 1000, 20),
    ],
)
def test_its_steps_are_those_of_ddim_from_the_same_noise(
    kind: str, zero: bool, prediction: str, num_steps: int, steps: int
) -> None:
    ours = schedule(kind, num_steps, zero)
    theirs = to_diffusers(ours, prediction, 1000.0)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 4, 4, 4, generator=generator)
    weight = torch.randn(4, 4, generator=generator) * 0.5
    asked: list[float] = []

    def network(x: torch.Tensor, t: torch.Tensor, cond: Any) -> torch.Tensor:
        return torch.tanh(torch.einsum("ij,bjhw->bihw", weight, x) + t.view(-1, 1, 1, 1))

    grid = times.grid(num_steps, steps, "trailing")
    expected = samplers.ddim(denoiser(network, ours, prediction), noise, ours, grid, None)
    theirs.set_timesteps(steps)
    x = noise
    for k in theirs.timesteps:
        t = (float(k) + ahead_of(ours)) / 1000
        asked.append(t)
        x = theirs.step(network(theirs.scale_model_input(x, k), torch.full((2,), t), None), k, x).prev_sample
    assert asked == pytest.approx(grid[:-1].tolist())
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "zero"), KINDS)
@pytest.mark.parametrize("num_steps", [1000, 250])
def test_a_schedule_is_recognised_by_its_levels(kind: str, zero: bool, num_steps: int) -> None:
    prediction = "v" if zero else "eps"
    config = to_diffusers(schedule(kind, num_steps, zero), prediction, 1000.0).config
    process = from_diffusers(config, "here")
    assert (process.kind, process.num_steps, process.zero_terminal_snr) == (kind, num_steps, zero)
    assert (process.prediction, process.time_scale, process.ahead) == (prediction, 1000.0, 1)


@pytest.mark.parametrize(
    ("config", "kind", "zero"),
    [
        ({"beta_schedule": "linear"}, "linear", False),
        ({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, "scaled-linear", False),
        ({"beta_schedule": "squaredcos_cap_v2"}, "cosine", False),
        ({"beta_schedule": "linear", "rescale_betas_zero_snr": True}, "linear", True),
        ({"_class_name": FLOW}, "rectified-flow", False),
    ],
)
def test_the_librarys_own_names_are_recognised(config: dict[str, Any], kind: str, zero: bool) -> None:
    process = from_diffusers(config, "here")
    assert (process.kind, process.zero_terminal_snr, process.num_steps) == (kind, zero, 1000)


def test_rectified_flow_shifts_its_times_there_as_here() -> None:
    expected = times.shift(times.grid(1000, 20, "trailing"), 2.5)
    for name, steps in ((FLOW, {"num_inference_steps": 20}), (FLOW_MATCH, {"sigmas": [1 - i / 20 for i in range(20)]})):
        theirs = to_diffusers(schedule("rectified-flow"), "flow", 1000.0, 2.5, name)
        theirs.set_timesteps(**steps)
        torch.testing.assert_close(theirs.timesteps.double() / 1000, expected[:-1], rtol=1e-6, atol=1e-6)
        process = from_diffusers(theirs.config | {"_class_name": name}, "here")
        assert (process.shift, process.ahead, process.prediction) == (2.5, 0, "flow")
    solver = {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True, "flow_shift": 3.0}
    process = from_diffusers({**solver, "prediction_type": "flow_prediction"}, "here")
    assert (process.kind, process.shift) == ("rectified-flow", 3.0)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({}, "not that of betas"),
        ({"_class_name": FLOW_MATCH, "shift": 3.0, "use_dynamic_shifting": True}, "use_dynamic_shifting is True"),
        ({"_class_name": "EDMEulerScheduler", "beta_schedule": "linear"}, "not that of betas"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True, **LINEAR}, "prediction_type is None"),
        ({"beta_end": 0.5, **LINEAR}, "is not one of the schedules"),
        ({"beta_schedule": "laplace"}, "laplace"),
        ({"prediction_type": "flow_prediction", **LINEAR}, "flow_prediction"),
        ({"num_train_timesteps": 1 << 60}, "num_train_timesteps"),
        ({"num_train_timesteps": "1000"}, "num_train_timesteps"),
        ({"trained_betas": ["a"]}, "no noise schedule"),
        ({"_class_name": FLOW, "shift": -1}, "shift is -1"),
        ({"trained_betas": [0.1]}, "1 betas for 1000"),
    ],
)
def test_a_scheduler_that_is_none_of_ours_is_refused(config: dict[str, Any], named: str) -> None:
    with pytest.raises(DataError, match=named):
        from_diffusers(config, "here")


def test_what_no_scheduler_serves_is_refused() -> None:
    with pytest.raises(ConfigError, match="300 steps"):
        to_diffusers(schedule("cosine", 300), "v", 1000.0)
    with pytest.raises(ConfigError, match="4000 steps"):
        to_diffusers(schedule("cosine", 4000), "v", 1000.0)
    with pytest.raises(ConfigError, match=r"diffusion\.prediction=flow"):
        to_diffusers(schedule("rectified-flow"), "x0", 1000.0)
