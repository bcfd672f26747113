import pytest
import torch

from ldm.core.diffusion import times
from ldm.core.diffusion.exact import Mixture
from ldm.core.diffusion.schedules import schedule
from tests.support.ideal_denoisers import gaussian, gaussian_flow, mixture, starts

PATHS = pytest.mark.parametrize("kind", ["linear", "cosine", "rectified-flow"])
THREE = Mixture(
    means=torch.tensor([-1.5, 0.2, 1.0], dtype=torch.float64),
    stds=torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64),
    weights=torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]], dtype=torch.float64),
)


def one(mean, std):
    mean, std = (torch.tensor([number], dtype=torch.float64) for number in (mean, std))
    return Mixture(mean, std, torch.ones(1, 1, dtype=torch.float64))


def labels(x, label=0):
    return torch.full((len(x),), label)


def test_the_density_of_every_condition_is_one_in_all():
    x = torch.linspace(-5, 5, 4001, dtype=torch.float64)
    for label in (0, 1):
        assert float(torch.trapezoid(THREE.density(x, label), x)) == pytest.approx(1, abs=1e-9)


@PATHS
@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
@pytest.mark.parametrize("label", [0, 1])
def test_the_exact_denoiser_is_the_mean_of_what_could_have_become_x_t(kind, t, label):
    """E[x0 | x_t] by its definition: x0 weighed by the density of the data and of the noise, added up on a fine net."""
    path, x = schedule(kind), starts()
    time = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = path.alpha_sigma(time)
    x0 = torch.linspace(-5, 5, 20001, dtype=torch.float64)
    weight = THREE.density(x0, label) * torch.exp(-0.5 * ((x - alpha * x0) / sigma) ** 2)
    expected = (weight * x0).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    torch.testing.assert_close(THREE.denoise(path, x, time, labels(x, label)), expected, rtol=0, atol=1e-8)


def test_times_and_conditions_may_differ_within_a_batch():
    path, x = schedule("cosine"), starts(2)
    t, cond = torch.tensor([0.2, 0.7], dtype=torch.float64), torch.tensor([1, 0])
    both = THREE.denoise(path, x, t, cond)
    for i in range(2):
        torch.testing.assert_close(both[i : i + 1], THREE.denoise(path, x[i : i + 1], t[i], cond[i : i + 1]))


@PATHS
def test_one_and_two_normals_are_denoised_as_their_closed_forms_say(kind):
    path, x, t = schedule(kind), starts(), torch.tensor(0.6, dtype=torch.float64)
    two = Mixture(
        means=torch.tensor([-0.9, 0.9], dtype=torch.float64),
        stds=torch.full((2,), 0.4359, dtype=torch.float64),
        weights=torch.full((1, 2), 0.5, dtype=torch.float64),
    )
    for general, special in ((one(0.4, 0.6), gaussian(path, 0.4, 0.6)), (two, mixture(path))):
        torch.testing.assert_close(general.denoise(path, x, t, labels(x)), special(x, t, None))


@PATHS
def test_the_exact_flow_of_one_normal_is_the_closed_form(kind):
    path, x = schedule(kind), starts()
    for t, s in ((1.0, 0.0), (1.0, 0.3), (0.2, 0.8)):
        reached = one(0.4, 0.6).flow(path, x, t, s, label=0)
        torch.testing.assert_close(reached, gaussian_flow(path, x, t, s, 0.4, 0.6), rtol=0, atol=1e-9)


@PATHS
@pytest.mark.parametrize("label", [0, 1])
def test_the_exact_flow_moves_along_the_denoiser_s_slope(kind, label):
    """In straight coordinates dz/dτ = (z − x0) / τ, here at a time between table points as far as that allows."""
    path, x, t, h = schedule(kind), starts(), 0.5005, 2e-4
    at = torch.tensor([t - h, t, t + h], dtype=torch.float64)
    alpha, sigma = path.alpha_sigma(at)
    tau = sigma / (alpha + sigma)
    before, now, after = (
        THREE.flow(path, x, 1.0, float(time), label) / (a + s) for time, a, s in zip(at, alpha, sigma, strict=True)
    )
    x0 = THREE.denoise(path, now * (alpha[1] + sigma[1]), at[1], labels(x, label))
    slope = (after - before) / (tau[2] - tau[0])
    torch.testing.assert_close(slope, (now - x0) / tau[1], rtol=1e-4, atol=1e-4)


def test_the_flow_keeps_ranks_and_takes_the_noise_to_the_data():
    path = schedule("cosine", zero_terminal_snr=True)
    ranks = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    reached = THREE.flow(path, torch.special.ndtri(ranks).view(-1, 1), 1.0, 0.0, label=0)
    assert bool((reached.diff(dim=0) > 0).all())
    mean = float((THREE.weights[0] * THREE.means).sum())
    square = float((THREE.weights[0] * (THREE.means**2 + THREE.stds**2)).sum())
    assert float(reached.mean()) == pytest.approx(mean, abs=1e-3)
    assert float(reached.square().mean()) == pytest.approx(square, rel=2e-3)


def test_times_module_and_mixture_agree_on_a_whole_batch_s_time():
    path, x = schedule("linear"), starts()
    t = torch.tensor(0.3, dtype=torch.float64)
    alone = THREE.denoise(path, x, t, labels(x))
    torch.testing.assert_close(
        alone, THREE.denoise(path, x, times.per_sample(t, x).double(), labels(x)), rtol=0, atol=1e-6
    )
