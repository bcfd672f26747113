"""The VQ-VAE: shapes, learning, refused sizes, and agreement with diffusers' decoder."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ldm.core.autoencoders.codec import Autoencoder, Draws, TokenCodec, train_only
from ldm.core.autoencoders.vq import VQVAE
from ldm.core.autoencoders.vq_config import VQVAEConfig
from ldm.core.errors import ConfigError
from ldm.core.interchange.vqmodel import to_diffusers


def _tiny(**settings: object) -> VQVAEConfig:
    base: dict[str, object] = {"channels": 8, "channel_multipliers": (1, 2), "num_res_blocks": 1, "codebook_size": 16}
    return VQVAEConfig(**(base | settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("multipliers", "patch", "downsampling"),
    [
        ((1, 1), 1, 2),
        ((1, 2, 2), 1, 4),
        ((1, 1, 1, 1), 1, 8),
        ((1, 1, 1, 1, 1), 1, 16),
        ((1,), 2, 2),
        ((1, 1), 2, 4),
        ((1, 1, 1), 4, 16),
    ],
)
def test_downsampling_is_what_the_levels_and_the_patch_make(
    multipliers: tuple[int, ...], patch: int, downsampling: int
) -> None:
    config = _tiny(channel_multipliers=multipliers, patch=patch, attention=True, middle_blocks=True)
    assert config.downsampling == downsampling
    vqvae, images = VQVAE(config), torch.rand(1, 3, 48, 32) * 2 - 1
    assert vqvae.encode(images).mean.shape == (1, 4, 48 // downsampling, 32 // downsampling)
    assert vqvae(images).images.shape == images.shape


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"channel_multipliers": (1,)}, "channel_multipliers"),
        ({"channel_multipliers": (1,) * 6}, "channel_multipliers"),
        ({"channel_multipliers": (1, 0)}, "channel_multipliers"),
        ({"channel_multipliers": (1,) * 5, "patch": 2}, "patch 2"),
        ({"patch": 3}, "patch"),
        ({"codebook_size": 1}, "codebook_size"),
        ({"cosine": True, "latent_channels": 1}, "latent_channels"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"codebook": "none"}, "codebook"),
        ({"num_decoder_blocks": 0}, "num_decoder_blocks"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused_by_name(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        _tiny(**settings)


def test_training_on_a_few_images_halves_the_error_and_uses_the_codebook() -> None:
    torch.manual_seed(0)
    vqvae, draws = VQVAE(_tiny(channels=16, patch=2, channel_multipliers=(1,))), Draws(0, 0, np.arange(8))
    images = nn.functional.interpolate(torch.rand(8, 3, 2, 2) * 2 - 1, size=16, mode="bilinear")
    vqvae.initialise(images, draws)
    optimizer, errors = torch.optim.AdamW(vqvae.parameters(), lr=3e-3), []
    for _ in range(40):
        result = vqvae(images)
        error = (result.images - images).abs().mean()
        optimizer.zero_grad()
        (error + result.loss).backward()
        optimizer.step()
        vqvae.after_step([result.observed], draws)
        errors.append(error.item())
    assert errors[-1] < errors[0] / 2
    assert result.numbers["perplexity"] > 4


def test_without_gradients_the_network_gives_the_same_and_leaves_its_input_alone() -> None:
    """Where no backward pass will ask for them, activations are overwritten."""
    torch.manual_seed(0)
    vqvae, images = VQVAE(_tiny(attention=True, middle_blocks=True)), torch.rand(2, 3, 16, 16) * 2 - 1
    kept = images.clone()
    remembered = vqvae.encode(images).mean, vqvae.decoder(vqvae.encode(images).mean.detach())
    with torch.no_grad():
        latents = vqvae.encode(images).mean
        forgotten = latents, vqvae.decoder(latents)
    for with_gradient, without in zip(remembered, forgotten, strict=True):
        assert torch.equal(with_gradient, without)
    assert torch.equal(images, kept)
    block, inner = vqvae.encoder.levels[0], torch.randn(2, 8, 8, 8)
    kept = inner.clone()
    with torch.no_grad():
        block(inner)
    assert torch.equal(inner, kept)


def test_the_training_forward_is_encode_quantise_decode() -> None:
    vqvae, images = VQVAE(_tiny(cosine=True)), torch.rand(2, 3, 8, 8) * 2 - 1
    torch.testing.assert_close(vqvae.decode(vqvae.encode(images).mean), vqvae(images).images)


def test_latents_are_before_quantisation_and_decoding_quantises() -> None:
    vqvae, images = VQVAE(_tiny()), torch.rand(2, 3, 8, 8) * 2 - 1
    latents = vqvae.encode(images).mean
    codes = vqvae.quantizer.lookup(latents)
    assert not torch.allclose(latents, codes)
    assert torch.equal(vqvae.decode(latents), vqvae.decode(codes))


def test_the_tokens_of_an_image_decode_to_its_reconstruction() -> None:
    codec, images = VQVAE(_tiny(cosine=True)), torch.rand(2, 3, 8, 8) * 2 - 1
    assert isinstance(codec, TokenCodec)
    tokens = codec.tokens(images)
    assert [each.shape for each in tokens] == [(2, 4, 4)] and int(tokens[0].max()) < codec.num_tokens
    torch.testing.assert_close(codec.decode(codec.from_tokens(tokens)), codec(images).images)


@pytest.mark.parametrize("part", ["all", "middle", "decoder", "head"])
def test_a_phase_changes_the_bytes_of_its_part_only(part: str) -> None:
    torch.manual_seed(0)
    codec, draws, images = VQVAE(_tiny(middle_blocks=True)), Draws(0, 0, np.arange(4)), torch.rand(4, 3, 16, 16)
    codec.initialise(images, draws)
    codec.encoder.levels.append(nn.BatchNorm2d(16))  # Statistics are no weights: nothing but evaluation keeps them.
    before = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    frozen = train_only(codec, part)
    optimizer = torch.optim.AdamW(codec.parameters(), lr=1e-2)
    codec.train()
    for module in frozen:
        module.eval()
    out = codec(images, draws)
    (out.images.square().mean() + out.loss).backward()
    optimizer.step()
    codec.after_step([out.observed], draws)
    changed = {name for name, tensor in codec.state_dict().items() if not torch.equal(tensor, before[name])}
    parts = {
        "middle": ("encoder.middle", "encoder.norm_out", "encoder.conv_out", "decoder.conv_in", "decoder.middle"),
        "decoder": ("decoder.",),
        "head": ("decoder.norm_out", "decoder.conv_out"),
    }
    codebook = ("quantizer",) if part in ("all", "middle") else ()
    own = {name for name in before if part == "all" or name.startswith(parts[part] + codebook)}
    assert changed == own


def test_cosine_latents_lie_on_the_unit_sphere() -> None:
    latents = VQVAE(_tiny(cosine=True)).encode(torch.rand(2, 3, 8, 8)).mean
    torch.testing.assert_close(latents.norm(dim=1), torch.ones(2, 4, 4))


def test_the_decoder_is_that_of_diffusers_vqmodel() -> None:
    torch.manual_seed(0)
    vqvae = VQVAE(_tiny(num_decoder_blocks=2, middle_blocks=True, attention=True, norm_groups=4)).eval()
    latents = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        for parameter in vqvae.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        theirs: Any = to_diffusers(Autoencoder(vqvae), 6)
        torch.testing.assert_close(vqvae.decode(latents), theirs.decode(latents).sample, rtol=1e-5, atol=1e-5)
