"""The multi-scale residual quantiser computes what its authors' code computes, and its codec keeps the seam."""

import numpy as np
import pytest
import torch

from ldm.core.autoencoders.codec import Draws, TokenCodec, TrainableCodec
from ldm.core.autoencoders.msvq import MSVQ
from ldm.core.autoencoders.msvq_config import MSVQConfig
from ldm.core.autoencoders.multiscale import MultiScaleQuantizer
from ldm.core.errors import ConfigError
from tests.core.autoregressive import tiny

TOKENS = [  # algorithm 1 in the authors' code
    [[19], [9]],
    [[49, 50, 56, 28], [6, 4, 26, 26]],
    [[19, 21, 21, 19, 59, 9, 6, 6, 19], [56, 6, 44, 9, 19, 25, 19, 26, 16]],
    [
        [22, 50, 44, 55, 53, 19, 11, 25, 16, 27, 54, 24, 21, 6, 44, 20],
        [4, 47, 27, 57, 0, 34, 35, 36, 27, 16, 27, 41, 44, 4, 57, 62],
    ],
]
RMS_AND_FIRST = [  # of f̂ after each scale, there
    (0.2505971, [0.04895774, 0.008449733, 0.008449703]),
    (0.3340662, [0.7689431, 0.5967982, 0.3364677]),
    (0.4858871, [1.065045, 0.6274064, 0.1905911]),
    (0.6362307, [1.704222, 0.6984242, -0.3020964]),
]
SMALL = {"channels": 8, "channel_multipliers": (1, 2), "patch": 2, "codebook_size": 16, "latent_channels": 4}
CONFIG = MSVQConfig(**SMALL, scales=(1, 2, 4))


def codec(**fields: object) -> MSVQ:
    torch.manual_seed(0)
    return MSVQ(CONFIG.replace(**fields))


@torch.no_grad()
def test_tokens_and_latents_are_those_of_the_authors_code() -> None:
    out = tiny.quantizer()(tiny.latents())
    assert [each.flatten(1).tolist() for each in out.tokens] == TOKENS
    for prefix, (rms, first) in zip(out.prefixes, RMS_AND_FIRST, strict=True):
        assert float(prefix.square().mean().sqrt()) == pytest.approx(rms, rel=1e-6)
        torch.testing.assert_close(prefix.flatten()[:3], torch.tensor(first), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_latents_of_tokens_are_those_of_quantising_after_every_scale() -> None:
    quantizer = tiny.quantizer()
    out = quantizer(tiny.latents())
    torch.testing.assert_close(torch.stack(list(quantizer.prefixes(out.tokens))), out.prefixes, rtol=0, atol=0)
    inputs = quantizer.inputs(out.tokens)
    assert inputs.shape == (2, 4 + 9 + 16, 8)
    torch.testing.assert_close(inputs[:, :4], quantizer.next_input(out.prefixes[0], 1))


@torch.no_grad()
def test_one_scale_without_mixing_is_plain_vector_quantisation() -> None:
    config = tiny.CODEC.replace(scales=(4,), mixing=0.0)
    quantizer = MultiScaleQuantizer(config)
    latents = tiny.latents()
    out = quantizer(latents)
    plain = quantizer.codebook(latents)
    torch.testing.assert_close(out.prefixes[0], plain.latents, atol=1e-6, rtol=0)
    assert torch.equal(out.tokens[0], plain.indices)
    # The codes' own term stays: it trains the mixers.
    torch.testing.assert_close(out.loss, plain.loss / config.commitment * (1 + config.commitment))


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ((1, 2, 3, 4, 5, 6, 8, 10, 13, 16), [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]),
        ((1, 2, 3, 4), [0, 1, 2, 3]),
        ((1, 2, 4, 6, 8), [0, 1, 2, 2, 3]),
        ((1, 2, 3, 4, 6, 8), [0, 0, 1, 2, 3, 3]),
        ((1, 2, 3, 4, 5, 6, 8), [0, 0, 1, 2, 2, 3, 3]),
    ],
)
def test_scales_take_the_published_mixers(scales: tuple[int, ...], expected: list[int]) -> None:
    assert MSVQConfig(scales=scales).mixer_of_scale == expected


@torch.no_grad()
def test_decoding_the_tokens_of_images_is_the_reconstruction() -> None:
    made, images = codec().eval(), torch.rand(3, 3, 16, 16) * 2 - 1
    assert isinstance(made, TrainableCodec) and isinstance(made, TokenCodec)
    maps = made.tokens(images)
    assert [each.shape for each in maps] == [(3, 1, 1), (3, 2, 2), (3, 4, 4)]
    assert torch.equal(made.from_tokens(maps), made.encode(images).mean)
    torch.testing.assert_close(made.decode(made.from_tokens(maps)), made(images).images, atol=1e-5, rtol=0)


def test_the_encoder_gets_the_decoders_gradient_and_the_mixers_the_codes_term() -> None:
    made, images = codec(), torch.rand(2, 3, 16, 16) * 2 - 1
    out = made(images, Draws(0, 0, np.arange(2)))
    (out.images.square().mean() + out.loss).backward()
    for parameter in (made.encoder.conv_in.weight, made.quantizer.mixers[0].weight, made.decoder.conv_out.weight):
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0


def test_a_share_of_training_images_is_decoded_from_fewer_scales() -> None:
    made, prefixes = codec(truncation=0.5), torch.arange(3.0)[:, None, None, None, None].expand(3, 4000, 1, 1, 1)
    taken = made._truncated(prefixes, Draws(0, 0, np.arange(4000))).flatten()
    shares = torch.bincount(taken.long(), minlength=3) / 4000
    torch.testing.assert_close(shares, torch.tensor([1 / 6, 1 / 6, 2 / 3]), atol=0.03, rtol=0)


@torch.no_grad()
def test_validation_says_what_each_scale_adds() -> None:
    made, images = codec().eval(), torch.rand(4, 3, 16, 16) * 2 - 1
    numbers = made.summarise([made(images[:2]).observed, made(images[2:]).observed])
    last = 10 * torch.log10(4 / (made(images).images.clamp(-1, 1) - images).square().flatten(1).mean(1)).mean()
    assert numbers["psnr_4"] == pytest.approx(float(last), abs=1e-3)
    assert {"usage", "perplexity", "usage_1", "usage_2", "psnr_1", "psnr_2"} <= numbers.keys()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scales": (1, 2, 2)}, "take sides that grow"),
        ({"scales": ()}, "take sides that grow"),
        ({"cosine": True}, "differ in length"),
        ({"codebook_size": 65_537}, "model.codebook_size is 65,537"),
    ],
)
def test_scales_that_cannot_be_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CONFIG.replace(**fields)
