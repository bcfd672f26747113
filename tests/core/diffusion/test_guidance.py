import math

import pytest
import torch

from ldm.core.diffusion import conditions, guidance, predictions, times
from ldm.core.diffusion.denoisers import clipped, denoiser
from ldm.core.diffusion.schedules import schedule
from tests.support.ideal_denoisers import gaussian

NULL = 3
PATH = schedule("linear")
T = torch.tensor(0.5, dtype=torch.float64)


def null(cond):
    return {"labels": torch.full_like(cond["labels"], NULL)}


class Classes:
    """A denoiser whose x0 depends on class, channel, time and x; it keeps the batches it was asked for."""

    def __init__(self):
        self.batches = []

    def __call__(self, x_t, t, cond):
        self.batches.append(len(x_t))
        table = torch.linspace(-1, 2, 4 * 5 * 3).view(4, 5, 3, 1)
        return table[cond["labels"]] * (1 + 0.1 * x_t) + 0.05 * x_t + times.broadcast(t, x_t).to(x_t.dtype)


def example(batch=2):
    x = torch.randn(batch, 5, 3, 4, generator=torch.Generator().manual_seed(3))
    return x, {"labels": torch.tensor([0, 2])[:batch]}


@pytest.mark.parametrize("scale", [-1.0, 0.5, 1.5, 4.0, 7.5])
def test_guidance_is_u_plus_scale_times_the_difference_in_all_channels(scale):
    net = Classes()
    x, cond = example()
    u, c = net(x, T, null(cond)), net(x, T, cond)
    guided = guidance.classifier_free(net, scale, null)(x, T, cond)
    torch.testing.assert_close(guided, u + scale * (c - u))
    paper = (1 + (scale - 1)) * c - (scale - 1) * u
    torch.testing.assert_close(guided, paper)


@pytest.mark.parametrize(("scale", "batches"), [(1.0, [2]), (0.0, [2]), (3.0, [4]), (-1.0, [4])])
def test_scales_0_and_1_cost_one_pass_and_others_one_doubled_batch(scale, batches):
    net = Classes()
    x, cond = example()
    guided = guidance.classifier_free(net, scale, null)(x, T, cond)
    assert net.batches == batches
    alone = {0.0: null(cond), 1.0: cond}.get(scale)
    if alone is not None:
        assert torch.equal(guided, net(x, T, alone))


@pytest.mark.parametrize(
    ("t", "batches"), [(0.1999, [2]), (0.2, [4]), (0.5, [4]), (0.8, [4]), (0.8001, [2]), (1.0, [2])]
)
def test_outside_the_interval_the_second_pass_is_skipped_and_c_is_taken(t, batches):
    net = Classes()
    x, cond = example()
    t = torch.tensor(t, dtype=torch.float64)
    guided = guidance.classifier_free(net, 3.0, null, interval=(0.2, 0.8))(x, t, cond)
    assert net.batches == batches
    if batches == [2]:
        assert torch.equal(guided, net(x, t, cond))
    else:
        assert not torch.allclose(guided, net(x, t, cond))


def test_times_per_sample_choose_the_interval_per_sample():
    x, cond = example()
    guided = guidance.classifier_free(Classes(), 3.0, null, interval=(0.2, 0.8))
    mixed = guided(x, torch.tensor([0.1, 0.5]), cond)
    for i, t in enumerate([0.1, 0.5]):
        alone = guided(x[i : i + 1], torch.tensor(t), conditions.index(cond, slice(i, i + 1)))
        torch.testing.assert_close(mixed[i : i + 1], alone)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_guiding_x0_is_guiding_the_prediction(kind):
    net = Classes()  # now read as the network's output, of whatever kind
    x, cond = example()
    guided = guidance.classifier_free(denoiser(net, PATH, kind), 4.0, null)(x, T, cond)
    u, c = net(x, T, null(cond)), net(x, T, cond)
    alpha, sigma = PATH.alpha_sigma(T)
    expected = predictions.to_x0(kind, u + 4.0 * (c - u), x, alpha, sigma)
    torch.testing.assert_close(guided, expected, rtol=1e-5, atol=1e-4)


def test_guiding_the_velocity_is_guiding_x0():
    net, path = Classes(), schedule("rectified-flow")
    x, cond = example()
    guided = guidance.classifier_free(denoiser(net, path, "flow"), 4.0, null)(x, T, cond)
    u, c = net(x, T, null(cond)), net(x, T, cond)
    torch.testing.assert_close(guided, x - 0.5 * (u + 4.0 * (c - u)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("amount", [0.3, 0.7, 1.0])
def test_rescale_moves_each_sample_s_standard_deviation_to_the_conditional_one(amount):
    net = Classes()
    x, cond = example()
    c, plain = net(x, T, cond), guidance.classifier_free(net, 5.0, null)(x, T, cond)
    guided = guidance.classifier_free(net, 5.0, null, rescale=amount)(x, T, cond)
    for i in range(2):
        expected = amount * plain[i] * c[i].std() / plain[i].std() + (1 - amount) * plain[i]
        torch.testing.assert_close(guided[i], expected)
    if amount == 1.0:
        torch.testing.assert_close(guided.std(dim=(1, 2, 3)), c.std(dim=(1, 2, 3)))


def test_a_constant_estimate_is_rescaled_to_itself():
    def flat(x_t, t, cond):
        return cond["labels"].view(-1, 1, 1, 1).expand_as(x_t).to(x_t.dtype)

    x, cond = example()
    guided = guidance.classifier_free(flat, 5.0, null, rescale=0.7)(x, T, cond)
    assert torch.equal(guided, guidance.classifier_free(flat, 5.0, null)(x, T, cond))


def test_rescaling_the_estimate_is_not_rescaling_the_noise():
    """Guidance itself is the same on x0 and on eps; rescaled it is another picture."""
    x, cond = example()
    alpha, sigma = PATH.alpha_sigma(T)
    net = Classes()
    c, u = (predictions.to_eps(net(x, T, each), x, alpha, sigma) for each in (cond, null(cond)))
    guided = u + 5.0 * (c - u)
    for amount, same in ((0.0, True), (0.7, False)):
        on_eps = guidance.rescaled(guided, c, amount) if amount else guided
        ours = guidance.classifier_free(net, 5.0, null, rescale=amount)(x, T, cond)
        theirs = predictions.to_x0("eps", on_eps, x, alpha, sigma)
        assert torch.allclose(ours, theirs.to(ours.dtype), atol=1e-4) is same


def test_channels_beyond_the_guided_ones_are_the_conditional_estimate():
    net = Classes()
    x, cond = example()
    every = guidance.classifier_free(net, 4.0, null)(x, T, cond)
    three = guidance.classifier_free(net, 4.0, null, channels=3)(x, T, cond)
    assert torch.equal(three[:, :3], every[:, :3])
    torch.testing.assert_close(three[:, 3:], net(x, T, cond)[:, 3:])
    zero = guidance.classifier_free(net, 0.0, null, channels=3)(x, T, cond)
    torch.testing.assert_close(zero[:, 3:], net(x, T, cond)[:, 3:])
    torch.testing.assert_close(zero[:, :3], net(x, T, null(cond))[:, :3])


def test_autoguidance_extrapolates_from_the_weak_model():
    strong, weak = gaussian(PATH, mean=1.0), gaussian(PATH, mean=-1.0)
    x, cond = example()
    s, w = strong(x, T, cond), weak(x, T, cond)
    torch.testing.assert_close(guidance.autoguidance(strong, weak, 2.0)(x, T, cond), w + 2.0 * (s - w))
    assert guidance.autoguidance(strong, weak, 1.0) is strong
    outside = guidance.autoguidance(strong, weak, 2.0, interval=(0.6, 1.0))(x, T, cond)
    assert torch.equal(outside, s)


def test_a_classifier_with_scale_1_turns_the_prior_into_the_posterior():
    """Data N(0, 1), and a label y | x0 ~ N(x0, 1): exact guidance must denoise to the exact E[x0 | x_t, y]."""

    def log_prob(x_t, t, y):
        alpha, sigma = (times.broadcast(part, x_t) for part in PATH.alpha_sigma(t))
        variance = 1 + sigma**2  # of y given x_t, as x0 | x_t ~ N(alpha x_t, sigma²)
        return -0.5 * ((y - alpha * x_t) ** 2 / variance).flatten(1).sum(1)

    x, _ = example()
    y = torch.full_like(x, 0.8)
    for t in (0.1, 0.5, 0.9):
        t = torch.tensor(t, dtype=torch.float64)
        alpha, sigma = PATH.alpha_sigma(t)
        expected = alpha * x + sigma**2 / (1 + sigma**2) * (y - alpha * x)
        gradient = guidance.gradient_of(log_prob)
        with torch.no_grad():
            guided = guidance.classifier(gaussian(PATH), gradient, PATH, 1.0)(x, t, y)
        torch.testing.assert_close(guided, expected, rtol=1e-4, atol=1e-5)
        assert not guided.requires_grad


def test_a_classifier_says_nothing_where_alpha_is_zero():
    path = schedule("cosine", zero_terminal_snr=True)
    x, cond = example()
    plain = gaussian(path)
    guided = guidance.classifier(plain, lambda x_t, t, y: torch.ones_like(x_t), path, 5.0)
    one = torch.tensor(1.0, dtype=torch.float64)
    assert torch.equal(guided(x, one, cond), plain(x, one, cond))
    both = guided(x, torch.tensor([1.0, 0.5]), cond)
    alpha, sigma = path.alpha_sigma(T)
    torch.testing.assert_close(both[:1], plain(x[:1], one, cond))
    torch.testing.assert_close(both[1:], plain(x[1:], T, cond) + 5 * sigma**2 / alpha)


def test_guidance_combines_by_wrapping():
    net = Classes()
    x, cond = example()
    push = torch.full_like(x, 0.01)
    both = guidance.classifier(guidance.classifier_free(net, 3.0, null), lambda x_t, t, y: push[: len(x_t)], PATH, 2.0)
    alpha, sigma = PATH.alpha_sigma(T)
    expected = guidance.classifier_free(net, 3.0, null)(x, T, cond) + 2.0 * sigma**2 / alpha * push
    torch.testing.assert_close(both(x, T, cond), expected)


def test_static_clipping_bounds_pixels_and_leaves_those_inside():
    x, cond = example()
    mean, std = torch.tensor(0.1), torch.tensor(0.5)
    plain, x0 = Classes()(x, T, cond), clipped(Classes(), mean, std)(x, T, cond)
    torch.testing.assert_close(x0 * std + mean, (plain * std + mean).clamp(-1, 1))
    assert (x0 != plain).any()


def test_dynamic_clipping_divides_what_exceeds_one_by_its_percentile_sample_by_sample():
    estimate = torch.stack([torch.linspace(-3, 3, 1001), torch.linspace(-0.9, 0.9, 1001)])
    x0 = clipped(lambda x, t, cond: estimate, torch.tensor(0.0), torch.tensor(1.0), dynamic=True)(estimate, T, {})
    largest = torch.quantile(estimate[0].abs(), 0.995)
    torch.testing.assert_close(x0[0], (estimate[0] / largest).clamp(-1, 1))
    assert torch.equal(x0[1], estimate[1])


def test_networks_are_handed_one_float32_time_per_sample():
    seen = []

    def network(x_t, t, cond):
        seen.append(t)
        return x_t.bfloat16()

    x, cond = example()
    denoise = denoiser(network, PATH, "v")
    assert denoise(x, T, cond).dtype == torch.float32
    denoise(x, torch.tensor([0.25, 0.75]), cond)
    assert seen[0].dtype == torch.float32 and seen[0].tolist() == [0.5, 0.5]
    assert seen[1].tolist() == [0.25, 0.75]


def test_settings_out_of_range_are_refused():
    for interval in ((0.8, 0.2), (-0.1, 0.5), (0.5, 1.5), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="guidance interval"):
            guidance.classifier_free(Classes(), 2.0, null, interval=interval)
    with pytest.raises(ValueError, match=r"rescale is 1.5"):
        guidance.classifier_free(Classes(), 2.0, null, rescale=1.5)
    with pytest.raises(ValueError, match="take 'v'"):
        denoiser(Classes(), schedule("linear", zero_terminal_snr=True), "eps")
