"""The KL autoencoder: its loss in closed form, its posterior, and diffusers' network of the same weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldm.core.autoencoders.codec import Draws, TrainableCodec
from ldm.core.autoencoders.kl import KLAutoencoder
from ldm.core.autoencoders.kl_config import PRESETS, KLConfig
from ldm.core.errors import ConfigError, DataError
from ldm.core.interchange.autoencoder_kl import from_diffusers, stock
from tests.support.golden_fill import fill, values

# From a table of the reference's networks: parameters of AutoencoderKL f8 by latent channels.
PARAMETERS = {4: 83_653_863, 8: 83_709_419, 16: 83_821_011, 32: 84_046_115}
TINY = {"channels": 32, "channel_multipliers": (1, 2, 2), "num_res_blocks": 1, "num_decoder_blocks": 2}
PUBLISHED = KLConfig(**{**PRESETS["kl-f8"], **TINY})


def tiny(**settings: Any) -> KLConfig:
    return KLConfig(**{"channels": 8, "channel_multipliers": (1, 2), "num_res_blocks": 1, **settings})


def awake(config: KLConfig) -> KLAutoencoder:
    """A network whose every weight is random: no zero or one hides a wrong place."""
    torch.manual_seed(0)
    codec = KLAutoencoder(config).eval()
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return codec


@pytest.mark.parametrize("channels", PARAMETERS)
def test_the_published_sizes_have_the_parameters_of_the_reference(channels: int) -> None:
    with torch.device("meta"):
        codec = KLAutoencoder(KLConfig(**{**PRESETS["kl-f8"], "latent_channels": channels}))
    assert sum(each.numel() for each in codec.parameters()) == PARAMETERS[channels]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_shrinks_images_as_its_name_says(preset: str) -> None:
    config = KLConfig(**PRESETS[preset])
    assert config.downsampling == int(preset.split("-")[1].removeprefix("f"))
    with torch.device("meta"):
        codec = KLAutoencoder(config)
        assert codec.encode(torch.empty(1, 3, 32, 64)).mean.shape[-2:] == (
            32 // codec.downsampling,
            64 // codec.downsampling,
        )
    assert isinstance(codec, TrainableCodec)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"layout": "published", "patch": 2}, "patch"),
        ({"level_attention": True}, "level_attention"),
        ({"kl_weight": -1}, "kl_weight"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        tiny(**settings)


def test_the_posterior_of_known_moments_diverges_by_the_closed_form() -> None:
    """KL(N(.5, e^−1) || N(0, 1)) = (.25 + e^−1 − 1 + 1) / 2 per value, and per pixel value of the image in the loss."""
    codec = KLAutoencoder(tiny(kl_weight=1.0))
    with torch.no_grad():
        codec.encoder.conv_out.weight.zero_()
        codec.encoder.conv_out.bias.copy_(torch.tensor([0.5] * 4 + [-1.0] * 4))  # type: ignore[union-attr]
        out = codec(torch.zeros(2, 3, 8, 8))
    assert float(out.numbers["kl_divergence"]) == pytest.approx(0.30893972058572117, rel=1e-6)
    assert float(out.loss) == pytest.approx(0.30893972058572117 * (4 * 4 * 4) / (3 * 8 * 8), rel=1e-6)
    measured = codec.summarise([out.observed])
    assert measured["mu_std"] == pytest.approx(0, abs=1e-3) and measured["sigma"] == pytest.approx(np.exp(-0.5))


@pytest.mark.parametrize(
    ("preset", "channels", "weight"), [("kl-f8-s", 4, 2.0833e-8), ("kl-f4-s", 3, 6.25e-8), ("kl-f8-s", 8, 4.1667e-8)]
)
def test_the_weight_is_that_of_sums_whatever_the_sizes(preset: str, channels: int, weight: float) -> None:
    """1e-6 on the paper's sums is 1e-6 · c / (3 f²) on means."""
    config = KLConfig(**{**PRESETS[preset], "latent_channels": channels, "channels": 8, "norm_groups": 1})
    codec = awake(config)
    out = codec(torch.rand(1, 3, 16, 16))
    assert float((out.loss / out.numbers["kl_divergence"]).detach()) == pytest.approx(weight, rel=1e-4)


def test_training_draws_from_the_posterior_and_validation_takes_its_mean() -> None:
    codec, images = awake(tiny()), torch.rand(4, 3, 8, 8) * 2 - 1
    draws, (mean, std) = Draws(3, 64, np.arange(64, 68)), codec.encode(images)
    assert std is not None
    noise = draws.normal("posterior", (4, 4, 4))
    torch.testing.assert_close(codec(images, draws).images, codec.decode(mean + std * noise))
    torch.testing.assert_close(codec(images).images, codec.decode(mean))


def test_divergence_alone_makes_the_posterior_the_prior() -> None:
    torch.manual_seed(0)
    codec, images = KLAutoencoder(tiny(kl_weight=1.0)), torch.rand(8, 3, 8, 8) * 2 - 1
    optimizer = torch.optim.AdamW(codec.encoder.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        codec(images).loss.backward()
        optimizer.step()
    mean, std = codec.encode(images)
    assert std is not None and float(mean.abs().max()) < 0.05 and float((std - 1).abs().max()) < 0.05


def test_numbers_of_a_validation_do_not_depend_on_its_batches() -> None:
    codec, images = awake(tiny()), torch.rand(8, 3, 8, 8)
    whole = codec.summarise([codec(images).observed])
    parts = codec.summarise([codec(part).observed for part in (images[:5], images[5:])])
    assert whole == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize("changes", [{}, {"level_attention": True}, {"quant_convs": False}, {"attention": False}])
def test_the_published_layout_is_diffusers_autoencoder_both_ways(changes: dict[str, Any]) -> None:
    codec, images, latents = (
        awake(PUBLISHED.replace(**changes)),
        torch.rand(2, 3, 32, 32) * 2 - 1,
        torch.randn(2, 4, 8, 8),
    )
    theirs: Any = stock(codec)
    back = from_diffusers(theirs.config, theirs.state_dict(), Path("given"))
    with torch.no_grad():
        mean, std = codec.encode(images)
        posterior = theirs.encode(images).latent_dist
        for found, wanted in (
            (posterior.mean, mean),
            (posterior.std, std),
            (theirs.decode(latents).sample, codec.decode(latents)),
        ):
            assert wanted is not None
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
        torch.testing.assert_close(back.encode(images).mean, mean, rtol=0, atol=1e-6)
        torch.testing.assert_close(back.decode(latents), codec.decode(latents), rtol=0, atol=1e-6)
        exact = theirs.double().decode(latents.double()).sample
        torch.testing.assert_close(codec.double().decode(latents.double()), exact, rtol=0, atol=1e-12)


def test_the_network_has_the_reference_outputs_on_weights_filled_by_a_rule() -> None:
    """Numbers of diffusers 0.42.1 on torch 2.13.0; the names are the reference's, so the mapping is tested too."""
    theirs: Any = stock(KLAutoencoder(PUBLISHED))
    fill(theirs)
    codec = from_diffusers(theirs.config, theirs.state_dict(), Path("given"))
    assert sum(each.numel() for each in codec.parameters()) == 954_567
    with torch.no_grad():
        moments = torch.cat(codec._moments(values("input.x", (1, 3, 32, 32))), dim=1).flatten()
        decoded = codec.decode(values("input.z", (1, 4, 8, 8))).flatten()
    first, last = (
        [0.2249577, 0.2033582, 0.2044526, 0.2034118, 0.206126, 0.2075308],
        [-0.03344844, -0.03316876, -0.04058959],
    )
    assert moments[:6].tolist() == pytest.approx(first, abs=2e-6) and moments[-3:].tolist() == pytest.approx(
        last, abs=2e-6
    )
    first, last = [0.2010308, 0.1034198, 0.218652, 0.2845126, 0.2576906, 0.2398189], [-0.390265, -0.34821, -0.3356591]
    assert decoded[:6].tolist() == pytest.approx(first, abs=3e-6) and decoded[-3:].tolist() == pytest.approx(
        last, abs=3e-6
    )
    assert [float(each.square().mean().sqrt()) for each in (moments, decoded)] == pytest.approx(
        [0.1971313, 0.2563471], rel=1e-5
    )


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"act_fn": "relu"}, "act_fn"),
        (
            {"down_block_types": ["AttnDownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"]},
            "down_block_types",
        ),
        ({"use_post_quant_conv": False}, "use_post_quant_conv"),
    ],
)
def test_an_autoencoder_of_other_layers_is_refused_by_the_setting(changed: dict[str, Any], named: str) -> None:
    theirs: Any = stock(KLAutoencoder(PUBLISHED))
    with pytest.raises(DataError, match=named):
        from_diffusers({**theirs.config, **changed}, theirs.state_dict(), Path("given"))
