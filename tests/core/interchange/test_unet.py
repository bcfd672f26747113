"""Our U-Net and diffusers' two: the same outputs from the same weights, both ways, and published golden values."""

import math
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.core.denoisers.registry import build
from ldm.core.denoisers.unet import UNet
from ldm.core.denoisers.unet_config import UNetConfig
from ldm.core.errors import ConfigError, DataError
from ldm.core.interchange.mapping import Given
from ldm.core.interchange.unet import from_diffusers, outputs, to_diffusers

diffusers = pytest.importorskip("diffusers")

ADM = {
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 6,
    "layers_per_block": 1,
    "block_out_channels": [32, 64],
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "attention_head_dim": 16,
    "num_class_embeds": 11,
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 32,
    "upsample_type": "resnet",
    "downsample_type": "resnet",
}
SD = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
}
STEPS = torch.tensor([31, 771])


def filled(name: str, shape: Any, a: float) -> Tensor:
    """Return a sin(i² 0.7548776662466927 + crc32(name) mod 997), row by row: values that any language can repeat."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return (a * torch.sin(i * i * 0.7548776662466927 + zlib.crc32(name.encode()) % 997)).float().view(shape)


def theirs_filled(name: str, settings: dict[str, Any]) -> Any:
    network = getattr(diffusers, name)(**settings)
    network.load_state_dict(
        {k: filled(k, v.shape, 0.08 if v.dim() > 1 else 0.3) for k, v in network.state_dict().items()}
    )
    return network.eval()


def converted(network: Any, num_named: int = 0) -> UNet:
    return from_diffusers(Given(network.config, network.state_dict(), Path("unet/weights"), num_named, ahead=0))


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference over the rms."""
    return float((ours - theirs).abs().max() / theirs.square().mean().sqrt())


def test_values_are_the_golden_ones_of_a_tiny_adm() -> None:
    network = theirs_filled("UNet2DModel", ADM)
    model = converted(network, num_named=10)
    x, labels = filled("input.x", (2, 3, 16, 16), 1), torch.tensor([3, 10])
    with torch.no_grad():
        ours, theirs = model(x, STEPS / 1000, {"labels": labels}), network(x, STEPS, class_labels=labels).sample
    assert model.config.num_classes == 10 and model.config.has_null and model.config.learn_sigma
    assert sum(parameter.numel() for parameter in model.parameters()) == 829_766
    assert ours.flatten()[:4].tolist() == pytest.approx([0.203902, 0.0986636, 0.1845271, 0.05847928], abs=3e-6)
    assert float(ours.square().mean().sqrt()) == pytest.approx(0.307904, rel=1e-5)
    assert apart(ours, theirs) < 1e-5


@pytest.mark.parametrize("linear", [False, True])
def test_values_are_the_golden_ones_of_a_tiny_stable_diffusion(linear: bool) -> None:
    network = theirs_filled("UNet2DConditionModel", {**SD, "use_linear_projection": linear})
    model = converted(network)
    x, tokens = filled("input.x", (2, 4, 8, 8), 1), filled("input.text", (2, 7, 24), 1)
    with torch.no_grad():
        ours, theirs = model(x, STEPS / 1000, {"tokens": tokens}), network(x, STEPS, tokens).sample
    assert sum(parameter.numel() for parameter in model.parameters()) == 790_404
    if not linear:
        assert ours.flatten()[:4].tolist() == pytest.approx([0.1327212, 0.1485871, 0.2179702, 0.1268204], abs=3e-6)
        assert float(ours.square().mean().sqrt()) == pytest.approx(0.3134105, rel=1e-5)
    assert apart(ours, theirs) < 1e-5


SHAPE = {"latent_channels": 4, "latent_size": 16, "channels": 32, "multipliers": (1, 2, 3), "repeats": 2, "groups": 16}
ATTENDED = UNetConfig(**SHAPE, num_classes=5, blocks="res,res attn,res attn", head_width=32)
CROSSED = UNetConfig(
    **SHAPE,
    num_classes=3,
    label_dropout=0,
    blocks="res cross,res cross,res",
    middle="res cross res",
    resample="conv",
    modulation="add",
    heads=4,
    depth=2,
    token_width=20,
)


@pytest.mark.parametrize(
    "config", [ATTENDED, ATTENDED.replace(num_classes=0, resample="conv", modulation="add", label_dropout=0), CROSSED]
)
@pytest.mark.parametrize("ahead", [0, 1])
def test_weights_go_to_diffusers_and_back(config: UNetConfig, ahead: int) -> None:
    torch.manual_seed(0)
    model = build(config).eval()
    assert isinstance(model, UNet)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    theirs = to_diffusers(model, ahead)
    cond = {"labels": torch.tensor([0, 2]), "tokens": torch.randn(2, 6, 20)}
    cond["mask"] = torch.arange(6) < torch.tensor([[6], [3]])
    x, t = torch.randn(2, 4, 16, 16), torch.tensor([0.2, 1.0])
    cond = {
        name: field for name, field in cond.items() if config.token_width or (name == "labels" and config.num_classes)
    }
    settings: Any = theirs.config
    back = from_diffusers(Given(settings, theirs.state_dict(), Path("x/y"), config.num_classes, ahead))
    with torch.no_grad():
        ours = model(x, t, cond)
        assert apart(outputs(theirs, config, x, t, cond, ahead), ours) < 1e-5
        assert apart(back(x, t, cond), ours) < 1e-5
    same = set(dict(config)) - {"heads", "head_width", "label_dropout"}
    assert {name: dict(back.config)[name] for name in same} == {name: dict(config)[name] for name in same}
    assert back.config.num_classes == 0 or back.config.has_null == config.has_null


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"edge": 5}, "edge"),
        ({"blocks": "res res"}, "blocks"),
        ({"middle": "res"}, "middle"),
        ({"modulation": "split"}, "modulation"),
        ({"latent_size": (16, 8)}, "latent_size"),
        ({"multipliers": (2, 2, 2)}, "multipliers"),
        ({"heads": 4}, "heads"),
    ],
)
def test_what_diffusers_does_not_have_is_named(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=f"{word} .* cannot be expressed"):
        to_diffusers(UNet(ATTENDED.replace(**fields)))


@pytest.mark.parametrize(
    "change",
    [
        {"act_fn": "gelu"},
        {"freq_shift": 1},
        {"down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D"]},
        {"block_out_channels": "many"},
        {"norm_num_groups": 7},
    ],
)
def test_a_network_of_theirs_that_ours_cannot_be_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="unet does not describe a U-Net that can be read"):
        from_diffusers(Given({**ADM, **change}, {}, Path("unet/weights")))
    with pytest.raises(DataError, match="lacks conv_in"):
        from_diffusers(Given(ADM, {}, Path("unet/weights")))
