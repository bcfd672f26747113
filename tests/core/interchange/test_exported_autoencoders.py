"""Autoencoders as diffusers': images decoded from normalised latents are the same, and so is what is encoded."""

from typing import Any

import diffusers
import pytest
import torch

from ldm.core.autoencoders.codec import Autoencoder, Codec
from ldm.core.autoencoders.pretrained import DiffusersCodec
from ldm.core.autoencoders.published_config import TAEF2Config
from ldm.core.autoencoders.taef2 import TAEF2
from ldm.core.autoencoders.vq import VQVAE
from ldm.core.autoencoders.vq_config import VQVAEConfig
from ldm.core.errors import ConfigError
from ldm.core.interchange.exporters import autoencoder_exporter
from ldm.core.interchange.vqmodel import Plan

TINY = VQVAEConfig(channels=16, channel_multipliers=(1, 2), num_res_blocks=1, codebook_size=32)
PATCHED = TINY.replace(patch=2, channel_multipliers=(2, 3))
COMMON: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 4,
    "norm_num_groups": 4,
}


def to_diffusers(autoencoder: Autoencoder, side: int) -> Any:
    return autoencoder_exporter(autoencoder).to_diffusers(autoencoder, side)


def awake(network: Any, amount: float = 0.05) -> Any:
    """Change all weights at random, so that none is a zero or a one that hides something."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(amount * torch.randn_like(parameter))
    return network.eval()


def vqvae(config: VQVAEConfig) -> Autoencoder:
    codec = awake(VQVAE(config))
    codec.quantizer.codes.copy_(1.7 * torch.randn_like(codec.quantizer.codes) + 0.4)
    return normalised(codec, even=True)


def normalised(codec: Codec, even: bool) -> Autoencoder:
    autoencoder = Autoencoder(codec).eval()
    num, generator = codec.latent_channels, torch.Generator().manual_seed(2)
    std = torch.full((num,), 1.7) if even else 0.5 + torch.rand(num, generator=generator)
    autoencoder.set_statistics(torch.randn(num, generator=generator), std)
    return autoencoder


def ready(kind: str, **config: Any) -> DiffusersCodec:
    return DiffusersCodec(awake(getattr(diffusers, kind)(**config)), kind)


def decoded(autoencoder: Autoencoder, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What ours and the exported network make of the same normalised latents, as DiTPipeline would ask."""
    network: Any = to_diffusers(autoencoder, side)
    latents = torch.randn(2, autoencoder.latent_channels, side, side, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        theirs = network.decode(1 / network.config.scaling_factor * latents).sample
        return autoencoder.decode(latents), theirs.clamp(-1, 1)


CONFIGS = {
    "plain": {},
    "equal widths": {"channel_multipliers": (1, 1), "num_decoder_blocks": 2},
    "middle": {"middle_blocks": True, "attention": True},
    "attention alone": {"attention": True, "cosine": True},
    "patch": {"channel_multipliers": (2, 3), "patch": 2},
    "patch, attention": {"patch": 2, "attention": True, "middle_blocks": True, "channels": 32, "norm_groups": 4},
    "patch, one level": {"patch": 2, "channel_multipliers": (2,), "num_decoder_blocks": 3},
    "patch, cosine": {"patch": 2, "cosine": True, "channels": 48},
    "patch of 4": {"patch": 4, "channel_multipliers": (2, 2), "channels": 16},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_vqvae_decodes_in_stock_layers(name: str) -> None:
    ours, theirs = decoded(vqvae(TINY.replace(**CONFIGS[name])), 6)
    assert ours.std() > 0.2
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-4)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 24])
def test_pixels_find_their_place_at_every_size_of_latents(side: int) -> None:
    ours, theirs = decoded(vqvae(PATCHED), side)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-4)


def test_an_image_that_is_the_same_everywhere_still_has_its_four_pixels() -> None:
    autoencoder = vqvae(PATCHED)
    decoder: Any = autoencoder.codec.decoder  # type: ignore[attr-defined]
    with torch.no_grad():
        decoder.conv_out.weight.zero_()
        decoder.conv_out.bias.copy_(torch.linspace(-0.9, 0.9, 12))
    ours, theirs = decoded(autoencoder, 6)
    assert len(ours.unique()) == 12
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-4)


def test_a_vqvae_does_not_encode_there_and_says_so() -> None:
    autoencoder = vqvae(TINY)
    network: Any = to_diffusers(autoencoder, 6)
    assert "decodes only" in autoencoder_exporter(autoencoder).notes(autoencoder, 6)[0]
    with torch.no_grad():
        assert network.encode(torch.zeros(1, 3, 24, 24)).latents.isnan().all()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"channel_multipliers": (2, 1)}, "channel_multipliers"),
        ({"channels": 12}, "norm_groups"),
        ({"channels": 8, "patch": 2}, "channels"),
    ],
)
def test_a_decoder_that_does_not_fit_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Plan(TINY.replace(**changes), 6)


def test_uneven_deviations_of_a_codebook_are_refused() -> None:
    with pytest.raises(ConfigError, match="other codes are nearest"):
        to_diffusers(normalised(VQVAE(TINY), even=False), 6)
    with pytest.raises(ConfigError, match="other codes are nearest"):
        to_diffusers(normalised(ready("VQModel", **COMMON), even=False), 6)


def test_a_decoder_whose_norms_look_at_the_codes_is_refused() -> None:
    with pytest.raises(ConfigError, match="norms look at the codes"):
        to_diffusers(
            normalised(ready("VQModel", **{**COMMON, "block_out_channels": (32, 32)}, norm_type="spatial"), even=True),
            6,
        )


@pytest.mark.parametrize("convolutions", [{}, {"use_quant_conv": False, "use_post_quant_conv": False}])
def test_a_kl_autoencoder_takes_the_statistics_into_its_convolutions(convolutions: dict[str, bool]) -> None:
    autoencoder = normalised(ready("AutoencoderKL", **COMMON, **convolutions), even=False)
    ours, theirs = decoded(autoencoder, 6)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    images = torch.rand(2, 3, 12, 12) * 2 - 1
    network: Any = to_diffusers(autoencoder, 6)
    with torch.no_grad():
        mean, std = autoencoder.posterior(images)
        posterior = network.encode(images).latent_dist
    assert network.config.scaling_factor == 1 and not autoencoder_exporter(autoencoder).notes(autoencoder, 6)
    torch.testing.assert_close(posterior.mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(posterior.std, std, rtol=1e-4, atol=1e-5)


def test_a_vqmodel_takes_the_statistics_into_its_codebook() -> None:
    autoencoder = normalised(ready("VQModel", **COMMON, num_vq_embeddings=16), even=True)
    with torch.no_grad():
        autoencoder.codec.model.quantize.embedding.weight.normal_()  # type: ignore[attr-defined]
    ours, theirs = decoded(autoencoder, 6)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    images = torch.rand(2, 3, 12, 12) * 2 - 1
    network: Any = to_diffusers(autoencoder, 6)
    with torch.no_grad():
        torch.testing.assert_close(network.encode(images).latents, autoencoder.encode(images), rtol=1e-4, atol=1e-5)


def tiny_autoencoder() -> DiffusersCodec:
    widths = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    return ready("AutoencoderTiny", **widths, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))


def test_a_scaling_factor_serves_where_there_is_nothing_to_fold_into() -> None:
    autoencoder = Autoencoder(tiny_autoencoder()).eval()
    autoencoder.set_statistics(torch.zeros(4), torch.full((4,), 2.5))
    ours, theirs = decoded(autoencoder, 6)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="AutoencoderTiny"):
        to_diffusers(normalised(tiny_autoencoder(), even=True), 6)


def test_an_autoencoder_that_diffusers_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="taef2"):
        to_diffusers(Autoencoder(TAEF2(TAEF2Config())), 6)
