"""Our DiT with linear attention and diffusers' Sana: the same outputs, both ways, and published golden values."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.core.denoisers.linear_dit import LinearDiT
from ldm.core.denoisers.linear_dit_config import LinearDiTConfig
from ldm.core.denoisers.registry import build
from ldm.core.errors import ConfigError, DataError
from ldm.core.interchange.mapping import Given
from ldm.core.interchange.sana import from_diffusers, outputs, to_diffusers
from tests.support.golden_fill import fill, values

diffusers = pytest.importorskip("diffusers")

TINY = {
    "in_channels": 8,
    "out_channels": 8,
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "num_layers": 3,
    "num_cross_attention_heads": 4,
    "cross_attention_head_dim": 16,
    "cross_attention_dim": 64,
    "caption_channels": 24,
    "mlp_ratio": 2.5,
    "sample_size": 8,
    "patch_size": 1,
}
STEPS = torch.tensor([31, 771])


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference over the rms."""
    return float((ours - theirs).abs().max() / theirs.square().mean().sqrt())


@torch.no_grad()
def test_values_are_the_golden_ones_of_a_tiny_sana() -> None:
    network: Any = diffusers.SanaTransformer2DModel(**TINY).eval()
    fill(network)
    model = from_diffusers(Given(network.config, network.state_dict(), Path("transformer/weights"), ahead=0))
    x, text = values("input.x", (2, 8, 8, 8)), values("input.text", (2, 7, 24))
    mask = torch.arange(7) < torch.tensor([[4], [7]])
    ours = model(x, STEPS / 1000, {"tokens": text, "mask": mask})
    assert sum(parameter.numel() for parameter in model.parameters()) == 255_752
    first, last = [-1.483483, -1.264708, -1.237808, -1.446906], [-0.4912985, -0.4232942, -0.5899324]
    assert ours.flatten()[:4].tolist() == pytest.approx(first, abs=6e-6)
    assert ours.flatten()[-3:].tolist() == pytest.approx(last, abs=6e-6)
    assert float(ours.square().mean().sqrt()) == pytest.approx(0.6150665, rel=1e-5)
    assert apart(ours, network(x, text, STEPS, encoder_attention_mask=mask.float()).sample) < 1e-5


CONFIG = LinearDiTConfig(
    latent_channels=4,
    latent_size=16,
    patch_size=2,
    width=48,
    depth=2,
    heads=3,
    cross_heads=4,
    token_width=20,
    mlp_ratio=3,
)


@pytest.mark.parametrize(
    "config", [CONFIG, CONFIG.replace(patch_size=1, depth=1, learn_sigma=True), CONFIG.replace(positions=0.5)]
)
@pytest.mark.parametrize("ahead", [0, 1])
@torch.no_grad()
def test_weights_go_to_diffusers_and_back(config: LinearDiTConfig, ahead: int) -> None:
    torch.manual_seed(0)
    model = build(config).eval()
    assert isinstance(model, LinearDiT)
    for parameter in model.parameters():
        parameter.add_(0.03 * torch.randn_like(parameter))
    theirs: Any = to_diffusers(model, ahead)
    back = from_diffusers(Given(theirs.config, theirs.state_dict(), Path("x/y"), ahead=ahead))
    # Angles of the times reach 1,000 and are rounded to 6e-5, in another place where steps are not the times.
    close = 3e-5 if ahead else 1e-5
    cond = {"tokens": torch.randn(2, 6, 20), "mask": torch.arange(6) < torch.tensor([[6], [3]])}
    for size in ((16, 16), (24, 8)):
        x, t = torch.randn(2, 4, *size), torch.tensor([0.2, 1.0])
        ours = model(x, t, cond)
        assert apart(outputs(theirs, config, x, t, cond, ahead), ours) < close
        assert apart(back(x, t, cond), ours) < close
    assert back.config == config.replace(label_dropout=0.1)


@torch.no_grad()
def test_softmax_attention_in_its_place_is_that_of_diffusers_with_normalised_queries_and_keys() -> None:
    torch.manual_seed(0)
    model = build(CONFIG.replace(attention="softmax", positions=1.0)).eval()
    assert isinstance(model, LinearDiT)
    for parameter in model.parameters():
        parameter.add_(0.03 * torch.randn_like(parameter))
    # Their Sana with the same weights but for the attention, in whose place another one of theirs is put.
    linear = LinearDiT(CONFIG.replace(positions=1.0))
    linear.load_state_dict({k: v for k, v in model.state_dict().items() if k in linear.state_dict()}, strict=False)
    theirs: Any = to_diffusers(linear, 0)
    for block, own in zip(theirs.transformer_blocks, model.blocks, strict=True):
        heads = {"heads": 3, "dim_head": 16, "bias": True, "qk_norm": "rms_norm", "eps": 1e-6}
        attention = diffusers.models.attention_processor.Attention(48, **heads).eval()
        parts = own.get_submodule("attention").state_dict()
        names = zip(("to_q", "to_k", "to_v"), range(3), strict=True)
        weights = {f"{n}.{w}": parts[f"qkv.{w}"].chunk(3)[i] for n, i in names for w in ("weight", "bias")}
        weights |= {f"to_out.0.{w}": parts[f"out.{w}"] for w in ("weight", "bias")}
        weights |= {f"norm_{n}.weight": parts[f"{n}_norm.weight"] for n in "qk"}
        attention.load_state_dict(weights)
        block.attn1 = attention
    cond = {"tokens": torch.randn(2, 6, 20), "mask": torch.arange(6) < torch.tensor([[6], [3]])}
    x, t = torch.randn(2, 4, 16, 16), torch.tensor([0.2, 1.0])
    assert apart(outputs(theirs, CONFIG, x, t, cond, 0), model(x, t, cond)) < 1e-5
    assert apart(linear(x, t, cond), model(x, t, cond)) > 0.01


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"scalars": ("w",)}, "scalars"),
        ({"latent_size": (8, 16)}, "latent_size"),
        ({"attention": "softmax"}, "attention softmax"),
    ],
)
def test_what_diffusers_does_not_have_is_named(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=f"{word}.* cannot be expressed"):
        to_diffusers(LinearDiT(CONFIG.replace(**fields)))


@pytest.mark.parametrize(
    "change", [{"qk_norm": "rms_norm_across_heads"}, {"guidance_embeds": True}, {"cross_attention_dim": 32}]
)
def test_a_network_of_theirs_that_ours_cannot_be_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="transformer does not describe a Sana"):
        from_diffusers(Given({**TINY, **change}, {}, Path("transformer/weights")))
    with pytest.raises(DataError, match="lacks patch_embed"):
        from_diffusers(Given(TINY, {}, Path("transformer/weights")))
