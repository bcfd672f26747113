import math

import pytest
import torch

from ldm.core.diffusion import guidance, samplers, times, variance
from ldm.core.diffusion.conditions import each
from ldm.core.diffusion.denoisers import denoiser
from ldm.core.diffusion.schedules import add_noise, schedule
from tests.support.ideal_denoisers import gaussian


def test_step_variances_are_the_betas_of_the_table():
    path = schedule("linear")
    alpha, sigma = path.alpha_sigma(torch.arange(1001, dtype=torch.float64) / 1000)
    beta, posterior = variance.step_variances(alpha[1:], sigma[1:], alpha[:-1], sigma[:-1])
    torch.testing.assert_close(beta, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), rtol=1e-9, atol=0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), path.alpha_bars[:-1]])
    expected = (1 - before) / (1 - path.alpha_bars) * beta
    torch.testing.assert_close(posterior, expected, rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 2.0), (1.0, 8.0), (0.5, 4.0)])
def test_the_variance_is_interpolated_geometrically_from_posterior_to_beta(fraction, expected):
    log_variance = variance.interpolate(torch.tensor(fraction), math.log(8.0), math.log(2.0))
    assert float(log_variance.exp()) == pytest.approx(expected)


@pytest.mark.parametrize(("fraction", "named"), [(0.0, "posterior"), (1.0, "beta")])
def test_ddpm_with_an_extreme_fraction_is_ddpm_with_that_variance(fraction, named):
    path = schedule("cosine")
    x = torch.randn(5, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = [torch.randn(5, 1, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(10)]
    grid = times.grid(1000, 10)
    learned, fixed = (
        samplers.ddpm(gaussian(path), x, path, grid, None, variance=choice, noise=lambda i: kept[i])
        for choice in (lambda x, t, cond: torch.full_like(x, fraction), named)
    )
    torch.testing.assert_close(learned, fixed, rtol=0, atol=1e-12)


def test_split_output_serves_denoiser_and_variance_from_one_pass():
    path = schedule("linear")
    passes = []

    def network(x, t, cond):
        passes.append(len(x))
        return torch.cat([0.1 * x, torch.tanh(x) * cond["sign"].view(-1, 1, 1, 1)], dim=1)

    split = variance.SplitOutput(network)
    guided = guidance.classifier_free(denoiser(split, path, "v"), 3.0, lambda cond: each(cond, torch.zeros_like))
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    t, cond = torch.tensor(0.5, dtype=torch.float64), {"sign": torch.tensor([1.0, -1.0])}
    assert guided(x, t, cond).shape == x.shape
    fraction = split.fraction(x, t, cond)
    torch.testing.assert_close(fraction, (torch.tanh(x) * cond["sign"].view(-1, 1, 1, 1) + 1) / 2)
    assert passes == [4]


def test_kl_is_that_of_torch_distributions():
    g = torch.Generator().manual_seed(0)
    mean_q, log_q, mean_p, log_p = torch.randn(4, 50, generator=g, dtype=torch.float64)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean_q, (log_q / 2).exp()), normal(mean_p, (log_p / 2).exp()))
    ours = variance.gaussian_kl_bits(mean_q, log_q, mean_p, log_p) * math.log(2)
    torch.testing.assert_close(ours, expected)


def test_density_is_that_of_torch_distributions():
    x, mean, log_variance = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = -torch.distributions.Normal(mean, (log_variance / 2).exp()).log_prob(x) / math.log(2)
    torch.testing.assert_close(variance.gaussian_nll_bits(x, mean, log_variance), expected)


@pytest.mark.parametrize("std", [0.002, 0.05, 2.0])
def test_the_masses_of_all_levels_add_up_to_one(std):
    x = torch.linspace(-1, 1, 256, dtype=torch.float64)
    log_variance = torch.full_like(x, 2 * math.log(std))
    bits = variance.gaussian_nll_bits(x, torch.full_like(x, 0.3), log_variance, levels=256)
    assert float((2.0**-bits).sum()) == pytest.approx(1, abs=1e-9)


def test_a_wide_level_s_mass_is_density_times_width():
    x, mean, log_variance = torch.tensor([0.2]), torch.tensor([0.0]), torch.tensor([0.0])
    discrete = variance.gaussian_nll_bits(x, mean, log_variance, levels=256)
    density = variance.gaussian_nll_bits(x, mean, log_variance)
    assert float(discrete) == pytest.approx(float(density) - math.log2(2 / 255), abs=1e-3)


def pieces(path, count=400):
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, count, 1, 2, 2, generator=g, dtype=torch.float64)
    step = torch.randint(1, path.num_steps + 1, (count,), generator=g)
    t = step.double() / path.num_steps
    alpha, sigma = (part.view(-1, 1, 1, 1) for part in path.alpha_sigma(t))
    return x0, add_noise(x0, eps, alpha, sigma), t, step


@pytest.mark.parametrize("kind", ["linear", "cosine", "rectified-flow"])
def test_the_bound_is_zero_for_who_knows_x0_and_the_posterior_s_variance(kind):
    path = schedule(kind, 50)
    x0, x_t, t, step = pieces(path)
    bits = variance.vlb_bits(path, x0, x_t, t, x0, torch.zeros(()))
    torch.testing.assert_close(bits[step > 1], torch.zeros_like(bits[step > 1]), rtol=0, atol=1e-12)
    assert (bits[step == 1] != 0).all()


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_first_step_s_lower_bound_is_the_posterior_s_variance_of_the_second(kind):
    """That of the first itself is 0, whose logarithm no fraction can interpolate."""
    path = schedule(kind, 50)
    bar_1, bar_2 = path.alpha_bars[:2].tolist()
    second = (1 - bar_1) / (1 - bar_2) * (1 - bar_2 / bar_1)
    x0 = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    first = torch.tensor([1 / 50], dtype=torch.float64)
    # A right mean: the density's peak, log2 √(2π σ²).
    bits = variance.vlb_bits(path, x0, x0, first, x0, torch.zeros(()))
    assert float(bits) == pytest.approx(0.5 * math.log2(2 * math.pi * second), rel=1e-9)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_bound_is_the_kl_of_the_table_s_posteriors(kind):
    path = schedule(kind, 50)
    x0, x_t, t, step = pieces(path)
    guess, fraction = x0 + 0.3, 0.7
    bits = variance.vlb_bits(path, x0, x_t, t.float(), guess, torch.tensor(fraction))
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), path.alpha_bars])
    now, before = alpha_bar[step], alpha_bar[step - 1]
    beta = 1 - now / before
    posterior = (1 - before) / (1 - now) * beta
    model = (fraction * beta.log() + (1 - fraction) * posterior.log()).exp()
    weight = before.sqrt() * beta / (1 - now)
    kl = 0.5 * ((model / posterior).log() - 1 + posterior / model + (weight * 0.3) ** 2 / model) / math.log(2)
    torch.testing.assert_close(bits[step > 1], kl[step > 1], rtol=1e-6, atol=1e-9)


def test_the_whole_bound_of_the_exact_denoiser_is_the_entropy_of_the_data():
    """For N(0, 1) data the reverse steps are normal with variance β, so that nothing is lost between the bounds."""
    path = schedule("cosine")
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 4000, 16, generator=g, dtype=torch.float64)
    t = torch.arange(1, 1001, dtype=torch.float64).repeat(4) / 1000
    alpha, sigma = (part.view(-1, 1) for part in path.alpha_sigma(t))
    x_t = add_noise(x0, eps, alpha, sigma)
    bits = variance.vlb_bits(path, x0, x_t, t, alpha * x_t, torch.ones(()))
    total = 1000 * float(bits.mean()) + float(variance.prior_bits(path, x0).mean())
    assert total == pytest.approx(0.5 * math.log2(2 * math.pi * math.e), abs=0.1)


def test_prior_bits_vanish_with_the_terminal_signal():
    x0 = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nothing = variance.prior_bits(schedule("linear", zero_terminal_snr=True), x0)
    torch.testing.assert_close(nothing, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-15)
    path = schedule("scaled-linear")
    alpha_bar = path.alpha_bars[-1]
    expected = 0.5 * (alpha_bar * x0**2 - alpha_bar - (1 - alpha_bar).log()) / math.log(2)
    torch.testing.assert_close(variance.prior_bits(path, x0), expected.flatten(1).mean(1))


def test_the_best_fraction_for_an_uncertain_x0_is_learned_by_gradient():
    """Where x0 is uncertain, the right variance is posterior + (weight · spread)²: the bound's minimum is there."""
    path = schedule("cosine", 50)
    t = torch.full((4000,), 0.5, dtype=torch.float64)
    alpha, sigma = path.alpha_sigma(torch.tensor([0.5, 0.48], dtype=torch.float64))
    g = torch.Generator().manual_seed(0)
    x0 = torch.randn(4000, 1, generator=g, dtype=torch.float64)
    x_t = add_noise(x0, torch.randn(4000, 1, generator=g, dtype=torch.float64), alpha[0], sigma[0])
    beta, posterior = variance.step_variances(alpha[0], sigma[0], alpha[1], sigma[1])
    right = posterior + (alpha[1] * beta / sigma[0] ** 2) ** 2 * sigma[0] ** 2
    expected = (right / posterior).log() / (beta / posterior).log()
    fraction = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for _ in range(60):
        loss = variance.vlb_bits(path, x0, x_t, t, alpha[0] * x_t, fraction).mean()
        (slope,) = torch.autograd.grad(loss, fraction, create_graph=True)
        (bend,) = torch.autograd.grad(slope, fraction)
        fraction = (fraction - slope / bend).detach().requires_grad_()
    assert 0.5 < float(expected) < 1.01
    assert float(fraction.detach()) == pytest.approx(float(expected), abs=0.03)
