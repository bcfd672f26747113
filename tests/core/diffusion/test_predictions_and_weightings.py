import math

import pytest
import torch

from ldm.core.diffusion import predictions, weightings
from ldm.core.diffusion.names import PREDICTIONS, WEIGHTINGS
from ldm.core.diffusion.schedules import add_noise, schedule

FIVE = ("uniform", "snr", "truncated-snr", "snr+1", "min-snr")
THREE = ("eps", "x0", "v")


def noisy(path, t):
    g = torch.Generator().manual_seed(1)
    x0, eps = (torch.randn(len(t), 3, 4, 4, generator=g, dtype=torch.float64) for _ in range(2))
    alpha, sigma = (part.view(-1, 1, 1, 1) for part in path.alpha_sigma(t))
    return x0, eps, alpha, sigma, add_noise(x0, eps, alpha, sigma)


def pairs():
    for name in ("linear", "scaled-linear", "cosine", "quadratic", "sigmoid"):
        yield from ((name, kind) for kind in THREE)
    yield from (("rectified-flow", kind) for kind in ("x0", "flow"))


@pytest.mark.parametrize(("name", "kind"), list(pairs()))
def test_every_prediction_gives_back_x0_and_eps(name, kind):
    path = schedule(name)
    predictions.check(kind, path)
    x0, eps, alpha, sigma, x_t = noisy(path, torch.tensor([0.001, 0.2, 0.5, 0.9, 0.999], dtype=torch.float64))
    output = predictions.target(kind, x0, eps, alpha, sigma)
    back = predictions.to_x0(kind, output, x_t, alpha, sigma)
    torch.testing.assert_close(back, x0, rtol=0, atol=1e-10)
    torch.testing.assert_close(predictions.to_eps(x0, x_t, alpha, sigma), eps, rtol=0, atol=1e-10)


def test_v_and_the_flow_are_the_derivatives_of_the_path():
    """v = dx/dφ on the circle (alpha, sigma) = (cos φ, sin φ); the flow's velocity = dx/dt on the straight line."""
    x0, eps = torch.tensor(0.7, dtype=torch.float64), torch.tensor(-1.3, dtype=torch.float64)
    angle, h = 0.6, 1e-5
    alpha, sigma = torch.tensor(math.cos(angle)), torch.tensor(math.sin(angle))
    slope = (
        math.cos(angle + h) * x0 + math.sin(angle + h) * eps - math.cos(angle - h) * x0 - math.sin(angle - h) * eps
    ) / (2 * h)
    assert float(predictions.target("v", x0, eps, alpha, sigma)) == pytest.approx(float(slope), abs=1e-6)
    straight = ((1 - 0.4) * x0 + 0.4 * eps) - ((1 - 0.3) * x0 + 0.3 * eps)
    velocity = predictions.target("flow", x0, eps, torch.tensor(0.7), torch.tensor(0.3))
    assert float(velocity) == pytest.approx(float(straight / 0.1))


@pytest.mark.parametrize("kind", ["x0", "v"])
def test_x0_is_finite_at_both_ends_of_a_zero_terminal_schedule(kind):
    path = schedule("linear", zero_terminal_snr=True)
    predictions.check(kind, path)
    x0, eps, alpha, sigma, x_t = noisy(path, torch.tensor([0.0, 1.0], dtype=torch.float64))
    output = predictions.target(kind, x0, eps, alpha, sigma)
    torch.testing.assert_close(predictions.to_x0(kind, output, x_t, alpha, sigma), x0, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "name", "zero", "words"),
    [
        ("eps", "linear", True, "'linear' with zero terminal SNR: take 'v'"),
        ("eps", "rectified-flow", False, "'rectified-flow': take 'flow'"),
        ("v", "rectified-flow", False, "take 'flow'"),
        ("flow", "cosine", False, "take 'v'"),
        ("velocity", "cosine", False, "'velocity' is not one of eps, x0, v, flow"),
    ],
)
def test_what_cannot_be_predicted_is_refused_with_what_can(kind, name, zero, words):
    with pytest.raises(ValueError, match=words):
        predictions.check(kind, schedule(name, zero_terminal_snr=zero))


@pytest.mark.parametrize("snr", [0.01, 0.5, 1.0, 3.0, 7.0, 900.0])
def test_weights_are_those_of_the_table(snr):
    alpha_bar = snr / (1 + snr)
    table = {
        "uniform": (1, 1 / snr, 1 - alpha_bar),
        "snr": (snr, 1, alpha_bar),
        "truncated-snr": (max(snr, 1), max(1, 1 / snr), max(alpha_bar, 1 - alpha_bar)),
        "snr+1": (snr + 1, 1 / alpha_bar, 1),
        "min-snr": (min(snr, 5), min(snr, 5) / snr, min(snr, 5) / (snr + 1)),
    }
    log_snr = torch.tensor(math.log(snr), dtype=torch.float64)
    for weighting, row in table.items():
        for prediction, expected in zip(("x0", "eps", "v"), row, strict=True):
            weight = float(weightings.loss_weight(weighting, prediction, log_snr))
            assert weight == pytest.approx(expected, rel=1e-12), (weighting, prediction)
        assert float(weightings.x0_weight(weighting, log_snr)) == pytest.approx(row[0], rel=1e-12)


@pytest.mark.parametrize(
    ("weighting", "prediction"), [("snr", "eps"), ("snr+1", "v"), ("uniform", "x0"), ("flow", "flow")]
)
def test_plain_losses_weigh_exactly_one_at_all_times(weighting, prediction):
    log_snr = torch.tensor([-math.inf, -30.0, -1.0, 0.0, 2.0, 40.0, math.inf])
    assert torch.equal(weightings.loss_weight(weighting, prediction, log_snr), torch.ones(7))


@pytest.mark.parametrize("name", ["linear", "cosine", "rectified-flow"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_all_predictions_weigh_the_same_x0_error_alike(name, weighting):
    path = schedule(name)
    t = torch.tensor([0.02, 0.1, 0.4, 0.8, 0.95], dtype=torch.float64)
    x0, eps, alpha, sigma, x_t = noisy(path, t)
    x0_hat = x0 + 0.1 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    eps_hat = predictions.to_eps(x0_hat, x_t, alpha, sigma)
    kinds = THREE if path.variance_preserving else ("eps", "x0", "flow")
    losses = []
    for kind in kinds:
        true = predictions.target(kind, x0, eps, alpha, sigma)
        guess = predictions.target(kind, x0_hat, eps_hat, alpha, sigma)
        weight = weightings.loss_weight(weighting, kind, path.log_snr(t))
        losses.append(weight * ((guess - true) ** 2).flatten(1).mean(1))
    expected = weightings.x0_weight(weighting, path.log_snr(t)) * ((x0_hat - x0) ** 2).flatten(1).mean(1)
    for loss in losses:
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("weighting", FIVE)
@pytest.mark.parametrize("kind", THREE)
def test_every_combination_has_the_gradient_of_its_weighted_x0_error(weighting, kind):
    path = schedule("cosine")
    t = torch.tensor([0.05, 0.3, 0.6, 0.9], dtype=torch.float64)
    x0, eps, alpha, sigma, x_t = noisy(path, t)
    x0_hat = (x0 + torch.linspace(-1, 1, x0[0].numel()).view(x0[0].shape)).requires_grad_()
    output = predictions.target(kind, x0_hat, predictions.to_eps(x0_hat, x_t, alpha, sigma), alpha, sigma)
    error = (output - predictions.target(kind, x0, eps, alpha, sigma)) ** 2
    weight = weightings.loss_weight(weighting, kind, path.log_snr(t))
    (weight * error.flatten(1).sum(1)).sum().backward()

    snr = (alpha / sigma) ** 2
    on_x0 = {"uniform": 1, "snr": snr, "truncated-snr": snr.clamp(min=1), "snr+1": snr + 1, "min-snr": snr.clamp(max=5)}
    torch.testing.assert_close(x0_hat.grad, (2 * on_x0[weighting] * (x0_hat - x0)).detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["linear", "cosine", "rectified-flow"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_are_finite_at_all_times_ends_included(name, prediction, weighting):
    log_snr = schedule(name, zero_terminal_snr=True).log_snr(torch.linspace(0, 1, 2001))
    weight = weightings.loss_weight(weighting, prediction, log_snr)
    assert weight.dtype == torch.float32 and torch.isfinite(weight).all()
    assert float(weight.min()) >= 0 and float(weight.max()) <= weightings.CAP


def test_the_cap_is_the_largest_weight_given():
    log_snr = torch.tensor([math.log(50.0), math.log(3.0)], dtype=torch.float64)
    torch.testing.assert_close(
        weightings.loss_weight("snr", "x0", log_snr, cap=20), torch.tensor([20.0, 3.0], dtype=torch.float64)
    )


@pytest.mark.slow  # importing diffusers.training_utils takes longer than all other tests here
@pytest.mark.parametrize("zero", [False, True])
def test_min_snr_weights_are_those_made_with_diffusers_compute_snr(zero):
    diffusers = pytest.importorskip("diffusers")
    from diffusers.training_utils import compute_snr

    scheduler = diffusers.DDPMScheduler(beta_schedule="linear", rescale_betas_zero_snr=zero)
    path = schedule("linear", zero_terminal_snr=zero)
    scheduler.alphas_cumprod = path.alpha_bars
    k = torch.arange(0, 1000, 37)
    snr = compute_snr(scheduler, k)
    log_snr = path.log_snr((k + 1).double() / 1000)
    torch.testing.assert_close(log_snr.exp(), snr.double(), rtol=1e-6, atol=1e-12)
    clipped = snr.double().clamp(max=5.0)  # as in the training examples of diffusers, per prediction
    if not zero:
        torch.testing.assert_close(weightings.loss_weight("min-snr", "eps", log_snr), clipped / snr, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        weightings.loss_weight("min-snr", "v", log_snr), clipped / (snr + 1), rtol=1e-6, atol=1e-12
    )


def test_unknown_weightings_and_gammas_are_refused():
    zero = torch.zeros(1)
    with pytest.raises(ValueError, match="'snr-1' is not one of uniform"):
        weightings.loss_weight("snr-1", "v", zero)
    with pytest.raises(ValueError, match="'w' is not one of eps"):
        weightings.loss_weight("snr", "w", zero)
    with pytest.raises(ValueError, match="gamma is 0"):
        weightings.x0_weight("min-snr", zero, gamma=0.0)
