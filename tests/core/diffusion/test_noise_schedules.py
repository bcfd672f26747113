import math

import pytest
import torch

from ldm.core.diffusion.names import SCHEDULES, least_steps
from ldm.core.diffusion.schedules import add_noise, schedule

VARIANCE_PRESERVING = [kind for kind in SCHEDULES if kind != "rectified-flow"]
EVERY = [(kind, zero) for kind in SCHEDULES for zero in (False, True)]

# alpha_bar after steps 1, 251, 501, 751 and 1000 of 1000, by the published formulas in float64.
GOLDEN = {
    ("linear", False): (0.9999, 0.52142303, 0.077796658, 0.0033001584, 4.0358298e-05),
    ("scaled-linear", False): (0.99915, 0.67379263, 0.27633268, 0.056169848, 0.0046600985),
    ("cosine", False): (0.99995872, 0.84588799, 0.49228517, 0.14317865, 2.4287669e-09),
    ("linear", True): (0.9999, 0.51886054, 0.075246216, 0.0026441059, 0.0),
    ("cosine", True): (0.99995872, 0.84588071, 0.49226454, 0.14315546, 0.0),
}


@pytest.mark.parametrize(("kind", "zero"), GOLDEN)
def test_alpha_bars_have_their_published_values(kind, zero):
    table = schedule(kind, 1000, zero).alpha_bars
    assert table.dtype == torch.float64 and table.shape == (1000,)
    for index, value in zip((0, 250, 500, 750, 999), GOLDEN[kind, zero], strict=True):
        assert float(table[index]) == pytest.approx(value, rel=6e-8, abs=1e-30)


@pytest.mark.parametrize(
    ("kind", "theirs", "start", "end"),
    [
        ("linear", "linear", 1e-4, 0.02),
        ("scaled-linear", "scaled_linear", 0.00085, 0.012),
        ("cosine", "squaredcos_cap_v2", 1e-4, 0.02),
        ("quadratic", "scaled_linear", 1e-4, 0.02),
        ("sigmoid", "sigmoid", 1e-4, 0.02),
    ],
)
@pytest.mark.parametrize("zero", [False, True])
def test_alpha_bars_are_those_of_diffusers(kind, theirs, start, end, zero):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(
        beta_schedule=theirs, beta_start=start, beta_end=end, rescale_betas_zero_snr=zero
    )
    # Theirs are float32 products of a thousand factors; the first factor of a zero-terminal table is rounded too.
    torch.testing.assert_close(
        schedule(kind, 1000, zero).alpha_bars, scheduler.alphas_cumprod.double(), rtol=2e-3, atol=2e-6
    )


@pytest.mark.parametrize(("kind", "zero"), EVERY)
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.5, 3.0, 10.0])
def test_the_time_of_a_noise_level_has_it(kind, zero, noise):
    path = schedule(kind, 100, zero)
    alpha, sigma = path.alpha_sigma(torch.tensor(path.time_at(noise), dtype=torch.float64))
    assert float(sigma / alpha) == pytest.approx(noise, rel=1e-9)


def test_noise_alone_is_at_the_end_of_the_schedules_that_reach_it():
    assert schedule("cosine", 100, True).time_at(math.inf) == schedule("rectified-flow").time_at(math.inf) == 1
    with pytest.raises(ValueError, match=r"ends at 14\.6"):
        schedule("scaled-linear").time_at(math.inf)


@pytest.mark.parametrize(("kind", "zero"), EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lookup_is_exact_at_table_points(kind, zero, dtype):
    path = schedule(kind, 1000, zero)
    t = (torch.arange(1, 1001, dtype=torch.float64) / 1000).to(dtype)
    alpha, sigma = path.alpha_sigma(t)
    assert alpha.dtype == sigma.dtype == dtype and alpha.shape == (1000,)
    # Rectified flow has no table to land on: there alpha = 1 − t with t as rounded.
    tight = 1e-12 if dtype == torch.float64 else 1e-7
    relative = tight if path.variance_preserving else max(tight, 1e-4 * (dtype == torch.float32))
    torch.testing.assert_close(alpha.double() ** 2, path.alpha_bars, rtol=2 * relative, atol=0)
    if path.variance_preserving:
        torch.testing.assert_close(sigma.double() ** 2, 1 - path.alpha_bars, rtol=2 * tight, atol=0)


@pytest.mark.parametrize("num_steps", [7, 100, 1000, 4000])
def test_float32_times_land_on_the_table_for_any_number_of_steps(num_steps):
    path = schedule("cosine", num_steps)
    t = torch.arange(1, num_steps + 1, dtype=torch.float64) / num_steps
    alpha, _ = path.alpha_sigma(t)
    alpha32, _ = path.alpha_sigma(t.float())
    assert torch.equal(alpha.float(), alpha32)


@pytest.mark.parametrize(("kind", "zero"), EVERY)
def test_both_ends_are_exact_and_finite(kind, zero):
    path = schedule(kind, 1000, zero)
    alpha, sigma = path.alpha_sigma(torch.tensor([0.0, 1.0]))
    assert alpha[0] == 1 and sigma[0] == 0
    if zero or kind == "rectified-flow":
        assert path.zero_terminal_snr
        assert alpha[1] == 0 and sigma[1] == 1
    else:
        assert alpha[1] > 0 and sigma[1] < 1 + 1e-6


@pytest.mark.parametrize(("kind", "zero"), EVERY)
def test_levels_are_monotone_and_continuous_between_table_points(kind, zero):
    path = schedule(kind, 20, zero)
    t = torch.linspace(0, 1, 20 * 997 + 1, dtype=torch.float64)
    alpha, sigma = path.alpha_sigma(t)
    assert (alpha.diff() <= 0).all() and (sigma.diff() >= 0).all()
    # The whole path is a quarter turn in 20 steps: none of 19940 pieces may jump.
    assert float(alpha.diff().abs().max()) < 2e-3 and float(sigma.diff().abs().max()) < 2e-3


@pytest.mark.parametrize("kind", VARIANCE_PRESERVING)
def test_variance_is_preserved_between_table_points(kind):
    alpha, sigma = schedule(kind, 1000, True).alpha_sigma(torch.rand(500, dtype=torch.float64))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(500, dtype=torch.float64), rtol=0, atol=1e-15)


def test_rectified_flow_is_the_straight_line():
    path = schedule("rectified-flow")
    t = torch.rand(3, 4)
    alpha, sigma = path.alpha_sigma(t)
    assert torch.equal(sigma, t)
    torch.testing.assert_close(alpha, 1 - t)
    assert not path.variance_preserving


@pytest.mark.parametrize("kind", SCHEDULES)
def test_log_snr_falls_from_infinity(kind):
    path = schedule(kind)
    t = torch.linspace(0, 1, 1001)
    log_snr = path.log_snr(t)
    assert log_snr[0] == math.inf and (log_snr.diff() < 0).all()
    assert schedule(kind, zero_terminal_snr=True).log_snr(t)[-1] == -math.inf
    alpha, sigma = path.alpha_sigma(t[1:-1].double())
    expected = (alpha**2 / sigma**2).log()
    torch.testing.assert_close(log_snr[1:-1].double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["linear", "scaled-linear", "quadratic", "sigmoid", "cosine"])
def test_another_number_of_steps_is_the_same_path(kind):
    """Nearly, from 100 steps on: what training asks for, unless the schedule is a function of time by itself."""
    t = torch.linspace(0, 1, 501, dtype=torch.float64)
    coarse, _ = schedule(kind, max(least_steps(kind), 20)).alpha_sigma(t)
    fine, _ = schedule(kind, 1000).alpha_sigma(t)
    assert float((coarse - fine).abs().max()) < 0.017
    few, _ = schedule(kind, 20).alpha_sigma(t)
    assert (float((few - fine).abs().max()) > 0.04) is (least_steps(kind) > 20)


def test_any_shape_of_times_is_looked_up():
    path = schedule("linear")
    t = torch.rand(2, 3, 1, 1)
    alpha, sigma = path.alpha_sigma(t)
    assert alpha.shape == sigma.shape == t.shape
    one, _ = path.alpha_sigma(t[1, 2, 0, 0])
    assert one.shape == () and one == alpha[1, 2, 0, 0]


def test_noisy_samples_have_the_path_s_mean_and_variance():
    eps = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    alpha, sigma = schedule("linear").alpha_sigma(torch.tensor(0.3))
    x_t = add_noise(torch.full_like(eps, 2.0), eps, alpha, sigma)
    assert float(x_t.mean()) == pytest.approx(2 * float(alpha), abs=0.01)
    assert float(x_t.std()) == pytest.approx(float(sigma), abs=0.01)


def test_what_is_not_a_schedule_or_a_time_is_refused():
    with pytest.raises(ValueError, match="'kosine' is not one of linear"):
        schedule("kosine")
    with pytest.raises(ValueError, match="too short"):
        schedule("linear", 1, zero_terminal_snr=True)
    path = schedule("linear")
    with pytest.raises(ValueError, match="int64"):
        path.alpha_sigma(torch.tensor([500]))
    with pytest.raises(ValueError, match=r"outside of \[0, 1\].*500"):
        path.alpha_sigma(torch.tensor([500.0]))
    with pytest.raises(ValueError, match="outside"):
        path.alpha_sigma(torch.tensor([math.nan]))
