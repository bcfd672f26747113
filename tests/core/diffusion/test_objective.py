"""The training objective: its times, its plain losses, and the hybrid loss of a learned variance."""

import pytest
import torch
from torch import Tensor

from ldm.core.diffusion import predictions, variance
from ldm.core.diffusion.objective import Denoising, FixedNoise
from ldm.core.diffusion.schedules import schedule


def drawn(count: int = 64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(count, 2, 3, 3, generator=g), torch.randn(count, 2, 3, 3, generator=g)


def evenly(count: int) -> Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def constant(output: Tensor) -> object:
    return lambda x_t, t, cond: output


def test_times_of_a_table_are_its_own_each_as_often() -> None:
    t = Denoising(schedule("cosine", 50)).draw_times(evenly(500))
    counts = torch.bincount((t * 50).round().long(), minlength=51)
    assert counts[0] == 0 and (counts[1:] == 10).all() and t.dtype == torch.float32


def test_times_on_the_straight_path_are_continuous_unless_the_bound_needs_steps() -> None:
    path = schedule("rectified-flow", 10)
    assert len(set(Denoising(path, "flow", "flow").draw_times(evenly(100)).tolist())) == 100
    after_step = Denoising(path, "flow", "flow", learn_variance=True).draw_times(evenly(100))
    assert len(set(after_step.tolist())) == 10


@pytest.mark.parametrize("times", ["uniform", "logit-normal"])
@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0])
def test_shifted_times_stay_on_the_table_of_a_variance_preserving_schedule(times: str, shift: float) -> None:
    steps = Denoising(schedule("cosine", 50), times=times, shift=shift).draw_times(evenly(500)).double() * 50
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-5)
    assert float(steps.round().min()) >= 1 and len(set(steps.round().tolist())) > 20


@pytest.mark.parametrize("times", ["uniform", "logit-normal"])
def test_the_shift_moves_times_towards_noise(times: str) -> None:
    path = schedule("rectified-flow")
    plain, shifted = (
        Denoising(path, "flow", "flow", times=times, shift=s).draw_times(evenly(1001)).double() for s in (1.0, 3.0)
    )
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain), rtol=0, atol=1e-6)
    assert float(plain[500]) == pytest.approx(0.5, abs=1e-5)


def test_logit_normal_times_have_the_mean_and_deviation_asked_for() -> None:
    t = Denoising(schedule("rectified-flow"), "flow", "flow", times="logit-normal", logit_mean=-0.5, logit_std=0.8)
    logits = t.draw_times(evenly(20_001)).double().logit()
    assert float(logits.mean()) == pytest.approx(-0.5, abs=0.01) and float(logits.std()) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("kind", "prediction", "weighting"),
    [("cosine", "v", "snr+1"), ("linear", "eps", "snr"), ("rectified-flow", "flow", "flow")],
)
def test_the_plain_losses_are_squared_errors_of_the_networks_own_output(kind, prediction, weighting) -> None:
    path = schedule(kind)
    objective = Denoising(path, prediction, weighting)
    x0, eps = drawn()
    t = objective.draw_times(evenly(64))
    alpha, sigma = (part.view(-1, 1, 1, 1) for part in path.alpha_sigma(t))
    target = predictions.target(prediction, x0, eps, alpha, sigma)
    loss = objective.loss(constant(torch.full_like(x0, 0.1)), x0, {"noise": eps, "t": t}, {})
    torch.testing.assert_close(loss, (0.1 - target).square().flatten(1).mean(1))


@pytest.mark.parametrize(("kind", "prediction", "weighting"), [("cosine", "v", "snr+1"), ("linear", "eps", "snr")])
def test_the_bound_trains_the_variance_and_never_the_mean(kind, prediction, weighting) -> None:
    path = schedule(kind, 100)
    x0, eps = drawn()
    plain, hybrid = Denoising(path, prediction, weighting), Denoising(path, prediction, weighting, learn_variance=True)
    t = hybrid.draw_times(evenly(64))
    outputs = torch.randn(64, 4, 3, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    hybrid.loss(constant(outputs), x0, {"noise": eps, "t": t}, {}).sum().backward()
    means = outputs.detach()[:, :2].clone().requires_grad_()
    plain.loss(constant(means), x0, {"noise": eps, "t": t}, {}).sum().backward()
    torch.testing.assert_close(outputs.grad[:, :2], means.grad)
    assert (outputs.grad[:, 2:].flatten(1).abs().sum(1) > 0).all()


def test_the_hybrid_loss_is_the_simple_one_and_a_thousandth_of_the_whole_bound() -> None:
    path = schedule("cosine", 100)
    x0, eps = drawn()
    plain, hybrid = Denoising(path), Denoising(path, learn_variance=True)
    t = hybrid.draw_times(evenly(64))
    outputs = torch.zeros(64, 4, 3, 3)
    alpha, sigma = (part.view(-1, 1, 1, 1) for part in path.alpha_sigma(t))
    x_t = alpha * x0 + sigma * eps
    bits = variance.vlb_bits(
        path, x0, x_t, t, predictions.to_x0("v", outputs[:, :2], x_t, alpha, sigma), torch.tensor(0.5)
    )
    expected = plain.loss(constant(outputs[:, :2]), x0, {"noise": eps, "t": t}, {}) + 0.001 * 100 * bits.float()
    torch.testing.assert_close(hybrid.loss(constant(outputs), x0, {"noise": eps, "t": t}, {}), expected)


def test_training_on_the_bound_finds_the_variance_of_the_reverse_step() -> None:
    """Of data that is one known point, the posterior's; of an estimate that is always off by much, a larger one."""
    path = schedule("cosine", 100)
    x0 = torch.zeros(256, 1, 1, 1)
    eps = torch.randn(256, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    t = torch.full((256,), 0.5)
    found = {}
    for off in (0.0, 3.0):
        fraction = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.Adam([fraction], lr=0.1)

        def network(x_t: Tensor, t: Tensor, cond: object, off: float = off, fraction: Tensor = fraction) -> Tensor:
            return torch.cat([torch.full_like(x_t, off), fraction.expand_as(x_t)], dim=1)

        for _ in range(150):
            optimizer.zero_grad()
            Denoising(path, "x0", "uniform", learn_variance=True, vlb_weight=1.0).loss(
                network, x0, {"noise": eps, "t": t}, {}
            ).mean().backward()
            optimizer.step()
        found[off] = float(fraction.detach())
    assert found[0.0] == pytest.approx(-1, abs=0.1) and found[3.0] > 1


@pytest.mark.parametrize(
    "settings", [{"prediction": "flow"}, {"weighting": "snr+2"}, {"times": "normal"}, {"prediction": "noise"}]
)
def test_parts_that_do_not_go_together_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"prediction|weighting|times"):
        Denoising(schedule("cosine"), **settings)


@pytest.mark.parametrize("prior", [0.0, 1.3])
def test_of_pure_noise_the_minimiser_is_the_mean_of_the_data(prior: float) -> None:
    """The best affine map of what the network sees: no slope, and the mean, whatever the data."""
    x0 = prior + 0.5 * drawn(4096)[0]
    objective = FixedNoise(schedule("rectified-flow"), pure_noise=True)
    given = objective.draw(lambda purpose: drawn(4096)[1], lambda purpose: evenly(4096))
    slope, offset = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([slope, offset], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        objective.loss(lambda x_t, t, cond: slope * x_t + offset, x0, given, {}).mean().backward()
        optimizer.step()
    assert float(slope.detach()) == pytest.approx(0, abs=0.02)
    assert float(offset.detach()) == pytest.approx(float(x0.mean()), abs=0.02)
    assert float(given["t"].min()) == float(given["t"].max()) == 1


@pytest.mark.parametrize("prediction", ["x0", "v"])
def test_at_a_fixed_noise_level_the_loss_is_the_squared_error_of_x0(prediction: str) -> None:
    """What the network sees is a multiple of x0 + σ ε, on any schedule."""
    x0, eps = drawn()
    path = schedule("cosine")
    objective = FixedNoise(path, sigma=0.8, prediction=prediction)
    given = objective.draw(lambda purpose: eps, lambda purpose: evenly(64))
    alpha, sigma = (part.view(-1, 1, 1, 1) for part in path.alpha_sigma(given["t"]))
    output = torch.full_like(x0, 0.1)

    def network(x_t: Tensor, t: Tensor, cond: object) -> Tensor:
        torch.testing.assert_close(x_t, alpha * (x0 + 0.8 * eps))
        return output

    x0_hat = predictions.to_x0(prediction, output, alpha * x0 + sigma * eps, alpha, sigma)
    torch.testing.assert_close(objective.loss(network, x0, given, {}), (x0_hat - x0).square().flatten(1).mean(1))
