import itertools
import math

import pytest
import torch

from ldm.core.diffusion import samplers, times
from ldm.core.diffusion.schedules import schedule
from tests.support.ideal_denoisers import draws, gaussian, gaussian_flow, mixture, starts

PATHS = [("linear", False), ("scaled-linear", False), ("cosine", True), ("rectified-flow", True)]
EVERY_PATH = pytest.mark.parametrize(("kind", "zero"), PATHS)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpmpp-2m", 2)])
@pytest.mark.parametrize(
    ("kind", "zero"), [("cosine", True), ("cosine", False), ("rectified-flow", True), ("linear", False)]
)
def test_order_of_accuracy_against_the_closed_form_flow(name, order, kind, zero):
    """Halving the step divides the error at t = 0.3 by 2 (order 1) or 4 (order 2)."""
    mean, std, end = 0.4, 0.6, 0.3
    path = schedule(kind, zero_terminal_snr=zero)
    x = starts()
    exact = gaussian_flow(path, x, 1.0, end, mean, std)
    errors = []
    for steps in (40, 80):
        grid = 1 - (1 - end) * torch.arange(steps + 1, dtype=torch.float64) / steps
        reached = samplers.SAMPLERS[name](gaussian(path, mean, std), x, path, grid, None)
        errors.append(float((reached - exact).abs().max()))
    observed = math.log2(errors[0] / errors[1])
    assert observed == pytest.approx(order, abs=0.2), errors


@pytest.mark.parametrize("name", ["ddim", "euler", "heun", "dpmpp-2m"])
@EVERY_PATH
def test_deterministic_samplers_reach_the_exact_flow_s_end(name, kind, zero):
    path = schedule(kind, zero_terminal_snr=zero)
    x = starts()
    exact = gaussian_flow(path, x, 1.0, 0.0, 0.4, 0.6)
    reached = samplers.SAMPLERS[name](gaussian(path, 0.4, 0.6), x, path, times.grid(1000, 250), None)
    torch.testing.assert_close(reached, exact, rtol=0, atol=2e-2 if name in ("ddim", "euler") else 1e-2)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_ddim_with_eta_one_is_the_ddpm_posterior(kind):
    path = schedule(kind, 200)
    x = starts()
    grid = times.grid(200, 200)
    one = samplers.ddim(mixture(path), x, path, grid, None, eta=1.0, noise=draws(x.shape))

    # Ho et al. 2020, equations 6 and 7, with their own letters and from the table of alpha_bars alone.
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), path.alpha_bars])
    noise, y = draws(x.shape), x
    for i, k in enumerate(range(200, 0, -1)):
        x0 = mixture(path)(y, torch.tensor(k / 200, dtype=torch.float64), None)
        beta = 1 - alpha_bar[k] / alpha_bar[k - 1]
        mean = (
            alpha_bar[k - 1].sqrt() * beta / (1 - alpha_bar[k]) * x0
            + (1 - beta).sqrt() * (1 - alpha_bar[k - 1]) / (1 - alpha_bar[k]) * y
        )
        y = mean + ((1 - alpha_bar[k - 1]) / (1 - alpha_bar[k]) * beta).sqrt() * noise(i)
    torch.testing.assert_close(one, y, rtol=0, atol=1e-9)
    ddpm = samplers.ddpm(mixture(path), x, path, grid, None, noise=draws(x.shape))
    torch.testing.assert_close(one, ddpm, rtol=0, atol=1e-9)


@EVERY_PATH
def test_a_ddim_step_keeps_the_marginal_variance_for_every_eta(kind, zero):
    """With x0 known, x_s must have mean alpha_s x0 and variance sigma_s²: the variances of its parts add up to that."""
    path = schedule(kind, zero_terminal_snr=zero)
    grid = torch.tensor([0.8, 0.35], dtype=torch.float64)
    alpha, sigma = path.alpha_sigma(grid)
    x0, eps = 1.7, starts(200_000, 3)
    x_t = alpha[0] * x0 + sigma[0] * eps
    for eta in (0.0, 0.4, 1.0):
        x_s = samplers.ddim(
            lambda x, t, cond: torch.full_like(x, x0),
            x_t,
            path,
            grid,
            None,
            eta=eta,
            noise=lambda i: starts(200_000, 4),
        )
        assert float(x_s.mean()) == pytest.approx(float(alpha[1]) * x0, abs=0.01)
        assert float(x_s.std()) == pytest.approx(float(sigma[1]), rel=0.01)


@EVERY_PATH
def test_ddim_with_eta_zero_is_euler_in_x_over_alpha(kind, zero):
    path = schedule(kind, zero_terminal_snr=zero)
    grid = times.grid(1000, 20)[1:-1]  # neither end has these coordinates
    alpha, sigma = path.alpha_sigma(grid)
    x = starts()
    y = x / alpha[0]
    for i in range(len(grid) - 1):
        x0 = mixture(path)(y * alpha[i], grid[i], None)
        slope = (y - x0) / (sigma[i] / alpha[i])
        y = y + slope * (sigma[i + 1] / alpha[i + 1] - sigma[i] / alpha[i])
    for name in ("ddim", "euler"):
        reached = samplers.SAMPLERS[name](mixture(path), x, path, grid, None)
        torch.testing.assert_close(reached, y * alpha[-1], rtol=0, atol=1e-10)


def test_on_rectified_flow_euler_and_heun_are_the_textbook_s_in_t():
    path = schedule("rectified-flow")
    denoise, grid, x = mixture(path), times.grid(1000, 12, "uniform"), starts()

    def velocity(x, t):
        return (x - denoise(x, t, None)) / t

    euler, heun = x, x
    for t, s in itertools.pairwise(grid):
        euler = euler + (s - t) * velocity(euler, t)
        first = velocity(heun, t)
        ahead = heun + (s - t) * first
        heun = ahead if s == 0 else heun + (s - t) * (first + velocity(ahead, s)) / 2
    torch.testing.assert_close(samplers.euler(denoise, x, path, grid, None), euler, rtol=0, atol=1e-12)
    torch.testing.assert_close(samplers.heun(denoise, x, path, grid, None), heun, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_ddim_shrinks_unit_gaussian_data_by_the_cosines_of_its_turns(kind):
    """x_t of N(0, 1) data is N(0, 1) at all times, and a step from angle φ to φ' multiplies it by cos(φ − φ')."""
    path = schedule(kind)
    grid = times.grid(1000, 25)
    alpha, sigma = path.alpha_sigma(grid)
    turns = torch.atan2(sigma, alpha).diff()
    x = torch.ones(1, 1, dtype=torch.float64)
    reached = samplers.ddim(gaussian(path), x, path, grid, None)
    assert float(reached) == pytest.approx(float(turns.cos().prod()), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "spacing", "options"),
    [
        *((name, spacing, {}) for name in samplers.SAMPLERS for spacing in ("trailing", "linspace", "leading")),
        ("ddpm", "trailing", {"variance": "beta"}),
        ("ddim", "trailing", {"eta": 0.5}),
    ],
)
@pytest.mark.parametrize("kind", ["linear", "scaled-linear", "cosine", "rectified-flow"])
def test_samples_of_an_ideal_denoiser_have_the_data_s_statistics_at_default_steps(kind, name, spacing, options):
    path = schedule(kind)
    x = torch.special.ndtri((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000).view(-1, 1)
    g = torch.Generator().manual_seed(5)
    samples = samplers.SAMPLERS[name](
        mixture(path),
        x,
        path,
        times.grid(1000, samplers.DEFAULT_STEPS[name], spacing),
        None,
        noise=lambda i: torch.randn(x.shape, generator=g, dtype=torch.float64),
        **options,
    )
    right = samples > 0
    assert float(samples.mean()) == pytest.approx(0, abs=0.05)
    assert float(samples.std()) == pytest.approx(1, rel=0.05)
    assert float(right.double().mean()) == pytest.approx(0.5, abs=0.025)
    assert float(samples[right].mean()) == pytest.approx(0.9173, rel=0.05)  # E|x| of the mixture


def test_the_flow_dpm_solver_is_of_second_order_between_two_noise_levels():
    """Errors of data N(0, 1/4) between sigma 0.95 and 0.05, at 10 … 160 uniform steps, fall by 4 at each halving."""
    path, x = schedule("rectified-flow"), torch.ones(1, 1, dtype=torch.float64)
    exact = gaussian_flow(path, x, 0.95, 0.05, 0.0, 0.5)
    errors = []
    for steps in (10, 20, 40, 80, 160):
        grid = 0.95 - 0.9 * torch.arange(steps + 1, dtype=torch.float64) / steps
        errors.append(float((samplers.dpmpp_2m(gaussian(path, 0.0, 0.5), x, path, grid, None) - exact).abs()))
    assert errors == pytest.approx([2.4e-2, 6.9e-3, 1.65e-3, 3.9e-4, 9.5e-5], rel=0.03)
