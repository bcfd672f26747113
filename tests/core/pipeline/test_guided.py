"""Guidance put together: what each part adds, and in which order."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.core.autoencoders.codec import Autoencoder
from ldm.core.autoencoders.vq import VQVAE
from ldm.core.autoencoders.vq_config import VQVAEConfig
from ldm.core.conditioning.labels import LabelConditioning
from ldm.core.denoisers.dit import DiT
from ldm.core.denoisers.dit_config import DiTConfig
from ldm.core.denoisers.network import DenoiserNetwork
from ldm.core.diffusion import samplers, times
from ldm.core.diffusion.conditions import Cond
from ldm.core.pipeline import model as guided_module
from ldm.core.pipeline.model import Guidance, Model, guided
from ldm.core.pipeline.settings import Diffusion
from ldm.core.system.precision import Policy, for_inference, resolve

POLICY = resolve("cpu", "fp32")
T = torch.tensor(0.4, dtype=torch.float64)


class Toy(DenoiserNetwork):
    """An x0-prediction that depends on everything; twice as many channels where it says the variance as well."""

    def __init__(self, gain: float, twice: bool = False, sharpness: float = 1.0) -> None:
        super().__init__()
        self.gain, self.twice, self.sharpness = gain, twice, sharpness

    def forward(self, x: Tensor, t: Tensor, cond: Cond, taps: tuple[int, ...] = ()) -> Tensor:
        x0 = self.gain * x + cond["labels"].view(-1, 1, 1, 1) + t.view(-1, 1, 1, 1)
        return torch.cat([x0, torch.tanh(self.sharpness * x)], dim=1) if self.twice else x0


def logits(x: Tensor) -> Tensor:
    """log p(class 0) − log p(class 1) falls by 2 for each unit of the sum."""
    total = x.flatten(1).sum(1)
    return torch.stack([-total, total], dim=1)


def linear_classifier(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    return logits(x).log_softmax(1).gather(1, cond["labels"][:, None]).squeeze(1)


def model(**changes: object) -> Model:
    codec = VQVAE(VQVAEConfig(channels=8, channel_multipliers=(1, 2), num_res_blocks=1, codebook_size=4))
    settings = {
        "network": Toy(0.3),
        "autoencoder": Autoencoder(codec),
        "diffusion": Diffusion(prediction="x0"),
        "latent_shape": (4, 2, 2),
        "conditioning": LabelConditioning(("left", "right")),
        "weak": None,
    }
    return Model(**{**settings, **changes})  # type: ignore[arg-type]


def inputs() -> tuple[Tensor, Cond]:
    return torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(0)), {"labels": torch.tensor([0, 1])}


def test_latents_are_decoded_a_few_at_a_time_and_come_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    built, sizes = model(), list[int]()
    latents = torch.randn(6, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    whole = built.decode(latents, POLICY)
    decode = built.autoencoder.decode
    monkeypatch.setattr(built.autoencoder, "decode", lambda some: (sizes.append(len(some)), decode(some))[1])
    monkeypatch.setattr(guided_module, "_PIXELS_DECODED", 5 * whole[0, ..., 0].size)
    assert np.abs(built.decode(latents, POLICY).astype(int) - whole).max() <= 1
    assert sizes == [3, 3], "all of one size, at most five"


def test_without_guidance_the_network_is_asked_as_it_is() -> None:
    x, cond = inputs()
    plain = guided(model(), Guidance(), POLICY)
    torch.testing.assert_close(plain.denoise(x, T, cond), 0.3 * x + cond["labels"].view(-1, 1, 1, 1) + 0.4)
    assert plain.for_ddpm == {}


def test_autoguidance_is_inside_and_classifier_free_guidance_around_it() -> None:
    x, cond = inputs()
    how = Guidance(cfg=3.0, autoguide_scale=2.0)
    x0 = guided(model(weak=model(network=Toy(0.1))), how, POLICY).denoise(x, T, cond)

    def both(label: Tensor) -> Tensor:
        own, weak = (gain * x + label.view(-1, 1, 1, 1) + 0.4 for gain in (0.3, 0.1))
        return weak + 2 * (own - weak)

    c, u = both(cond["labels"]), both(torch.full((2,), 2))
    torch.testing.assert_close(x0, u + 3 * (c - u))


def test_guiding_some_channels_leaves_the_others_to_the_condition() -> None:
    x, cond = inputs()
    some = guided(model(), Guidance(cfg=3.0, cfg_channels=3), POLICY).denoise(x, T, cond)
    all_of_them = guided(model(), Guidance(cfg=3.0), POLICY).denoise(x, T, cond)
    alone = guided(model(), Guidance(), POLICY).denoise(x, T, cond)
    assert torch.equal(some[:, :3], all_of_them[:, :3]) and torch.equal(some[:, 3:], alone[:, 3:])
    assert not torch.equal(some[:, 3:], all_of_them[:, 3:])


def test_a_classifier_moves_the_estimate_by_sigma_squared_over_alpha_times_its_gradient() -> None:
    x, cond = inputs()
    with_classifier = model(classifier=linear_classifier)
    how = Guidance(cfg=2.0, classifier_scale=0.5)
    moved = guided(with_classifier, how, POLICY).denoise(x, T, cond) - guided(
        with_classifier, Guidance(cfg=2.0), POLICY
    ).denoise(x, T, cond)
    alpha, sigma = with_classifier.schedule.alpha_sigma(T)
    p = logits(x).softmax(1)
    slope = torch.tensor([-1.0, 1.0])[cond["labels"]] - (p * torch.tensor([-1.0, 1.0])).sum(1)
    expected = 0.5 * float(sigma**2 / alpha) * slope.view(-1, 1, 1, 1).expand_as(x)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)


def test_in_ddpms_form_the_classifier_is_handed_to_the_sampler_and_the_estimate_stays() -> None:
    x, cond = inputs()
    with_classifier = model(classifier=linear_classifier)
    steered = guided(with_classifier, Guidance(classifier_scale=0.5), POLICY, ddpm=True)
    plain = guided(with_classifier, Guidance(), POLICY)
    assert torch.equal(steered.denoise(x, T, cond), plain.denoise(x, T, cond))
    assert steered.for_ddpm["gradient"](x, T, cond).abs().sum() > 0


@pytest.mark.parametrize("ddpm", [False, True])
def test_outside_of_the_interval_nothing_guides(ddpm: bool) -> None:
    x, cond = inputs()
    everything = model(classifier=linear_classifier, weak=model(network=Toy(0.1)))
    how = Guidance(cfg=3.0, autoguide_scale=2.0, classifier_scale=1.0, cfg_interval=(0.5, 0.9))
    steered = guided(everything, how, POLICY, ddpm=ddpm)
    assert torch.equal(steered.denoise(x, T, cond), guided(model(), Guidance(), POLICY).denoise(x, T, cond))
    if ddpm:
        assert not steered.for_ddpm["gradient"](x, T, cond).any()


def test_a_learned_variance_is_that_of_the_conditional_pass() -> None:
    x, cond = inputs()
    learned = model(network=Toy(0.3, twice=True), diffusion=Diffusion(prediction="x0", learn_variance=True))
    steered = guided(learned, Guidance(cfg=3.0), POLICY, ddpm=True, learned_variance=True)
    assert steered.denoise(x, T, cond).shape == x.shape
    torch.testing.assert_close(steered.for_ddpm["variance"](x, T, cond), (torch.tanh(x) + 1) / 2)


def test_autoguidance_draws_with_the_variance_of_the_model_itself() -> None:
    x, cond = inputs()
    diffusion = Diffusion(prediction="x0", learn_variance=True)
    weak = model(network=Toy(0.1, twice=True, sharpness=3.0), diffusion=diffusion)
    learned = model(network=Toy(0.3, twice=True), diffusion=diffusion, weak=weak)
    steered = guided(learned, Guidance(autoguide_scale=2.0), POLICY, ddpm=True, learned_variance=True)
    steered.denoise(x, T, cond)
    torch.testing.assert_close(steered.for_ddpm["variance"](x, T, cond), (torch.tanh(x) + 1) / 2)


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({}, 1.0),
        ({"prediction": "eps", "weighting": "snr", "schedule": "linear"}, 1.0),
        ({"prediction": "eps", "weighting": "snr"}, 0.9961),
        ({"prediction": "eps", "weighting": "snr", "shift": 3.0}, 0.9961),
    ],
)
@pytest.mark.parametrize("steps", [1, 7, 50, 1000])
def test_sampling_starts_where_the_prediction_can_be_trusted(
    settings: dict[str, object], first: float, steps: int
) -> None:
    built = model(diffusion=Diffusion.model_validate(settings))
    grid = built.grid(steps)
    assert len(grid) == steps + 1 and bool((grid.diff() < 0).all()) and grid[-1] == 0
    assert float(grid[0]) == pytest.approx(first, abs=1e-4)
    alpha, sigma = built.schedule.alpha_sigma(grid[0])
    assert settings.get("prediction") != "eps" or float(sigma / alpha) <= 165.001


class Valueless(Policy):
    """Tensors without values; autocast has no word for them."""

    def autocast(self) -> AbstractContextManager[object]:
        return nullcontext()


HOW = {
    "plain": Guidance(),
    "cfg": Guidance(cfg=3.0),
    "all of cfg": Guidance(cfg=3.0, cfg_interval=(0.2, 0.8), cfg_rescale=0.7, cfg_channels=3),
    "autoguidance": Guidance(autoguide_scale=2.0, cfg=1.5),
}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_no_sampler_asks_the_device_for_a_number(sampler: str, how: Guidance) -> None:
    """On tensors without values, which would raise: what never waits can run ahead of a GPU, or be in its graph."""
    is_ddpm = sampler == "ddpm"
    policy = Valueless(torch.device("meta"), torch.float32)
    config = DiTConfig(latent_channels=4, latent_size=4, patch_size=2, width=16, depth=1, heads=2, num_classes=3)
    network = for_inference(DiT(config.replace(learn_sigma=is_ddpm)), policy)
    drawn = model(
        network=network,
        conditioning=LabelConditioning(("a", "b", "c")),
        latent_shape=(4, 4, 4),
        diffusion=Diffusion(prediction="x0", learn_variance=is_ddpm),
    )
    steered = guided(replace(drawn, weak=drawn), how, policy, is_ddpm, is_ddpm)
    x, cond = torch.empty(2, 4, 4, 4, device="meta"), {"labels": torch.empty(2, dtype=torch.int64, device="meta")}
    options = {**steered.for_ddpm, **({"eta": 1.0} if sampler == "ddim" else {})}
    grid = times.grid(1000, 4)
    out = samplers.SAMPLERS[sampler](
        steered.denoise, x, drawn.schedule, grid, cond, noise=lambda step: torch.empty_like(x), **options
    )
    assert out.shape == x.shape and out.device.type == "meta"


def test_a_class_to_guide_away_from_takes_the_place_of_the_null() -> None:
    toy = model(conditioning=LabelConditioning(("left", "right"), has_null=False))
    x, cond = torch.randn(3, 4, 2, 2), {"labels": torch.zeros(3, dtype=torch.int64)}
    away = guided(toy, Guidance(cfg=2.5, away_from="right"), POLICY).denoise(x, T, cond)
    left, right = (guided(toy, Guidance(), POLICY).denoise(x, T, {"labels": cond["labels"] + k}) for k in (0, 1))
    torch.testing.assert_close(away, right + 2.5 * (left - right))
