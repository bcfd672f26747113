"""The deep-compression autoencoder: shortcuts in closed form, linear attention, diffusers' network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ldm.core.autoencoders.codec import Draws, TrainableCodec, train_only
from ldm.core.autoencoders.dc import DCAutoencoder
from ldm.core.autoencoders.dc_blocks import Downsample, Upsample, average_groups
from ldm.core.autoencoders.dc_config import PRESETS, DCConfig
from ldm.core.errors import ConfigError, DataError
from ldm.core.interchange.autoencoder_dc import from_diffusers, stock
from ldm.core.system.attention import linear_attend
from tests.support.golden_fill import fill, values

PARAMETERS = {"dc-f32": 323_356_460, "dc-f64": 676_896_140, "dc-f32-sana": 312_250_275}
TINY = DCConfig(channel_multipliers=(1, 2, 2), encoder_depths=(0, 1, 1), batch_norm_levels=2)
SANA = DCConfig(
    channel_multipliers=(1, 2, 2), encoder_depths=(1, 1, 1), attention_scales=(5,), resampling="convolution"
)
# Of diffusers 0.42.1 on torch 2.13.0, on weights by the rule of `golden_fill`: parameters; first, last and rms of both.
GOLDEN: dict[str, tuple[DCConfig, int, dict[str, tuple[list[float], list[float], float]]]] = {
    "published": (
        TINY,
        464_420,
        {
            "latent": ([-1.320946, -0.1851382, 0.298927], [-0.2795467, -0.6816736, -0.3177061], 1.10658),
            "decoded": ([-0.06447786, 0.5495958, -0.07576065], [-0.07809709, 0.09064662, -0.2931393], 0.3329744),
        },
    ),
    "sana": (
        SANA,
        479_755,
        {
            "latent": ([-1.4914, -1.415864, -0.6980079], [0.3404154, 0.1792668, 0.5474507], 1.687392),
            "decoded": ([0.2423479, 0.1425375, 0.01311624], [-0.3313639, -0.3769973, -0.4128797], 0.3161494),
        },
    ),
}


def awake(config: DCConfig) -> DCAutoencoder:
    """A network whose every weight and statistic is random: no zero or one hides a wrong place."""
    torch.manual_seed(0)
    codec = DCAutoencoder(config).eval()
    with torch.no_grad():
        for name, tensor in codec.state_dict().items():
            if tensor.is_floating_point():
                noise = 0.05 * torch.randn_like(tensor)
                tensor.add_(noise.abs() if "running_var" in name else noise)
    return codec


def images(count: int = 2, side: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_shrinks_as_its_name_says_and_the_published_have_their_parameters(preset: str) -> None:
    config = DCConfig(**PRESETS[preset])
    with torch.device("meta"):
        codec = DCAutoencoder(config)
    assert config.downsampling == int(preset.split("-")[1].removeprefix("f"))
    assert isinstance(codec, TrainableCodec)
    if preset in PARAMETERS:
        assert sum(each.numel() for each in codec.parameters()) == PARAMETERS[preset]


def test_the_shortcut_down_is_average_pooling_and_up_after_down_keeps_every_bit() -> None:
    x = torch.arange(2 * 8 * 4 * 4).float().reshape(2, 8, 4, 4)
    torch.testing.assert_close(average_groups(F.pixel_unshuffle(x, 2), 8), F.avg_pool2d(x, 2))
    # With twice the channels, neighbours in a row are averaged, and rows go into channels.
    wide = average_groups(F.pixel_unshuffle(x, 2), 16)
    assert torch.equal(wide[:, 0], (x[:, 0, ::2, ::2] + x[:, 0, ::2, 1::2]) / 2)
    assert torch.equal(wide[:, 1], (x[:, 0, 1::2, ::2] + x[:, 0, 1::2, 1::2]) / 2)
    down, up = Downsample(16, 8, "pixels", True), Upsample(8, 16, "pixels", True)
    with torch.no_grad():
        for parameter in (*down.parameters(), *up.parameters()):
            parameter.zero_()
        z = torch.randn(2, 8, 4, 4)
        torch.testing.assert_close(down(up(z)), z)


def test_linear_attention_is_the_quadratic_form_of_its_kernel() -> None:
    q, k, v = (torch.rand(2, 3, 4, 50, dtype=torch.float64) for _ in range(3))
    weights = k.transpose(-2, -1) @ q
    wanted = v @ (weights / weights.sum(dim=-2, keepdim=True))
    torch.testing.assert_close(linear_attend(q, k, v), wanted, rtol=1e-12, atol=1e-12)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear_attend(q.bfloat16(), k.bfloat16(), v.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("config", [TINY, SANA, TINY.replace(latent_channels=16, decoder_depths=(0, 2, 1))])
def test_it_is_diffusers_autoencoder_both_ways(config: DCConfig) -> None:
    codec, z = awake(config), torch.randn(2, config.latent_channels, 8, 8, generator=torch.Generator().manual_seed(2))
    theirs: Any = stock(codec)
    back = from_diffusers(theirs.config, theirs.state_dict(), Path("given"))
    assert back.config == config.replace(decoder_depths=config.depths_of_decoder)
    with torch.no_grad():
        latents, decoded = codec.encode(images()).mean, codec.decode(z)
        torch.testing.assert_close(theirs.encode(images()).latent, latents, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(theirs.decode(z).sample, decoded, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(back.encode(images()).mean, latents, rtol=0, atol=1e-6)
        torch.testing.assert_close(back.decode(z), decoded, rtol=0, atol=1e-6)


@pytest.mark.parametrize("style", GOLDEN)
def test_the_network_has_the_reference_outputs_on_weights_filled_by_a_rule(style: str) -> None:
    config, parameters, outputs = GOLDEN[style]
    theirs: Any = stock(DCAutoencoder(config))
    fill(theirs)
    codec = from_diffusers(theirs.config, theirs.state_dict(), Path("given"))
    assert sum(each.numel() for each in codec.parameters()) == parameters
    with torch.no_grad():
        found = {
            "latent": codec.encode(values("input.x", (1, 3, 32, 32))).mean.flatten(),
            "decoded": codec.decode(values("input.z", (1, 8, 8, 8))).flatten(),
        }
    for name, (first, last, rms) in outputs.items():
        near = 2e-5 * rms
        assert found[name][:3].tolist() == pytest.approx(first, abs=near), name
        assert found[name][-3:].tolist() == pytest.approx(last, abs=near), name
        assert float(found[name].square().mean().sqrt()) == pytest.approx(rms, rel=1e-5), name


@pytest.mark.parametrize("part", ["all", "middle", "decoder", "head"])
def test_a_phase_changes_the_bytes_of_its_part_only_batch_statistics_included(part: str) -> None:
    codec = awake(TINY)
    before = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    frozen = train_only(codec, part)
    optimizer = torch.optim.AdamW([each for each in codec.parameters() if each.requires_grad], lr=1e-2)
    codec.train()
    for module in frozen:
        module.eval()
    codec(images(4), Draws(0, 0, np.arange(4))).images.square().mean().backward()
    optimizer.step()
    changed = {name for name, tensor in codec.state_dict().items() if not torch.equal(tensor, before[name])}
    parts = {
        "all": ("encoder.", "decoder."),
        "middle": ("encoder.down_blocks.2.", "encoder.conv_out.", "decoder.conv_in.", "decoder.up_blocks.2."),
        "decoder": ("decoder.",),
        "head": ("decoder.up_blocks.1.", "decoder.norm_out.", "decoder.conv_out."),
    }
    assert changed == {name for name in before if name.startswith(parts[part])}


def test_without_shortcuts_it_has_as_many_weights_and_no_class_in_diffusers() -> None:
    bare, codec = awake(TINY.replace(shortcuts=False)), awake(TINY)
    assert bare.state_dict().keys() == codec.state_dict().keys()
    with torch.no_grad():
        assert not torch.allclose(bare.encode(images()).mean, codec.encode(images()).mean)
    with pytest.raises(ConfigError, match=r"model\.shortcuts"):
        stock(bare)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"encoder_depths": (0, 1)}, "encoder_depths"),
        ({"encoder_depths": (0, 0, 1)}, "encoder_depths"),
        ({"decoder_depths": (1, 1, 1)}, "decoder_depths"),
        ({"latent_channels": 7}, "latent_channels"),
        ({"channels": 24}, "model.channels"),
        ({"attention_scales": (4,)}, "attention_scales"),
        ({"channel_multipliers": (1,)}, "channel_multipliers"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        TINY.replace(**settings)


def test_an_autoencoder_of_other_layers_is_refused_by_the_setting() -> None:
    theirs: Any = stock(DCAutoencoder(TINY))
    for changed, named in (
        ({"decoder_conv_act_fn": "silu"}, "decoder_conv_act_fn"),
        ({"decoder_act_fns": ["silu", "relu", "silu"]}, "decoder_act_fns"),
        ({"upsample_block_type": "interpolate"}, "upsample_block_type"),
        ({"downsample_block_type": "other"}, "resampling"),
    ):
        with pytest.raises(DataError, match=named):
            from_diffusers({**theirs.config, **changed}, theirs.state_dict(), Path("given"))
