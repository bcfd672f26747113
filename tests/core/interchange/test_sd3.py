"""Our MM-DiT and diffusers': the same outputs from the same weights, both ways, and published golden values."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.core.denoisers.mmdit import MMDiT
from ldm.core.denoisers.mmdit_config import MMDiTConfig
from ldm.core.denoisers.registry import build
from ldm.core.errors import ConfigError, DataError
from ldm.core.interchange.mapping import Given
from ldm.core.interchange.prompts import embedded
from ldm.core.interchange.sd3 import from_diffusers, outputs, to_diffusers
from tests.support.golden_fill import fill, values

diffusers = pytest.importorskip("diffusers")

TINY = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 24,
    "caption_projection_dim": 64,
    "pooled_projection_dim": 20,
    "out_channels": 4,
    "pos_embed_max_size": 12,
    "qk_norm": "rms_norm",
}
STEPS = torch.tensor([31, 771])


def theirs_filled(settings: dict[str, Any]) -> Any:
    network = diffusers.SD3Transformer2DModel(**settings)
    positions = network.pos_embed.pos_embed.clone()
    fill(network)
    network.pos_embed.pos_embed.copy_(positions)  # "other buffers as built"
    return network.eval()


def converted(network: Any) -> MMDiT:
    return from_diffusers(Given(network.config, network.state_dict(), Path("transformer/weights"), ahead=0))


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference over the rms."""
    return float((ours - theirs).abs().max() / theirs.square().mean().sqrt())


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("dual", "parameters", "first", "last", "rms"),
    [
        ([], 432_592, [0.5270504, 0.0220165, 0.431097, -0.1932458], [-0.708312, 0.4713525, -1.045373], 0.6122087),
        ([0], 461_744, [0.4987332, 0.01766267, 0.401383, -0.1977455], [-0.5921096, 0.4952585, -0.9303654], 0.6114292),
    ],
)
@torch.no_grad()
def test_values_are_the_golden_ones_of_a_tiny_stable_diffusion_3(
    dual: list[int], parameters: int, first: list[float], last: list[float], rms: float
) -> None:
    network = theirs_filled({**TINY, "dual_attention_layers": dual})
    model = converted(network)
    x, text, pooled = (
        values("input.x", (2, 4, 16, 16)),
        values("input.text", (2, 7, 24)),
        values("input.pooled", (2, 20)),
    )
    ours = model(x, STEPS / 1000, {"tokens": text, "pooled": pooled})
    assert count(model) == parameters
    assert ours.flatten()[:4].tolist() == pytest.approx(first, abs=6e-6)
    assert ours.flatten()[-3:].tolist() == pytest.approx(last, abs=6e-6)
    assert float(ours.square().mean().sqrt()) == pytest.approx(rms, rel=1e-5)
    assert apart(ours, network(x, text, pooled, STEPS).sample) < 1e-5


CONFIG = MMDiTConfig(
    latent_channels=4,
    latent_size=16,
    patch_size=2,
    width=48,
    depth=3,
    heads=3,
    token_width=20,
    pooled_width=12,
    dual=2,
    position_side=20,
    position_base=8,
)


@pytest.mark.parametrize("config", [CONFIG, CONFIG.replace(qk_norm=False, dual=0, learn_sigma=True, depth=1)])
@pytest.mark.parametrize("ahead", [0, 1])
@torch.no_grad()
def test_weights_go_to_diffusers_and_back(config: MMDiTConfig, ahead: int) -> None:
    torch.manual_seed(0)
    model = build(config).eval()
    assert isinstance(model, MMDiT)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    theirs: Any = to_diffusers(model, ahead)
    back = from_diffusers(Given(theirs.config, theirs.state_dict(), Path("x/y"), ahead=ahead))
    cond = {"tokens": torch.randn(2, 6, 20), "mask": torch.ones(2, 6, dtype=torch.bool), "pooled": torch.randn(2, 12)}
    for size in ((16, 16), (24, 8)):
        x, t = torch.randn(2, 4, *size), torch.tensor([0.2, 1.0])
        ours = model(x, t, cond)
        assert apart(outputs(theirs, config, x, t, cond, ahead), ours) < 1e-5
        assert apart(back(x, t, cond), ours) < 1e-5
    assert back.config == config.replace(latent_size=16)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"latent_size": (16, 8)}, "latent_size"),
        ({"scalars": ("w",)}, "scalars"),
    ],
)
def test_what_diffusers_does_not_have_is_named(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=f"{word}.* cannot be expressed"):
        to_diffusers(MMDiT(CONFIG.replace(**fields)))


@torch.no_grad()
def test_what_embeds_texts_and_classes_stays_here_and_its_vectors_go_there() -> None:
    for fields in ({"num_classes": 3}, {"vocabulary": 9, "text_length": 4, "text_width": 16, "text_layers": 1}):
        config = CONFIG.replace(**{"token_width": 0, "pooled_width": 0, "text_width": 16, **fields})
        model = build(config).eval()
        assert isinstance(model, MMDiT)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        cond = {"labels": torch.tensor([1, 1])}
        if config.vocabulary:
            cond = {"ids": torch.tensor([[3, 4, 0, 0]] * 2), "mask": torch.tensor([[True, True, False, False]] * 2)}
        vectors = embedded(model, cond)
        assert vectors["tokens"].shape == (2, 2 if config.vocabulary else 1, 16)
        x, t = torch.randn(2, 4, 16, 16), torch.tensor([0.2, 1.0])
        assert apart(outputs(to_diffusers(model), config, x, t, vectors, 1), model(x, t, cond)) < 1e-5


@pytest.mark.parametrize(
    "change",
    [
        {"qk_norm": "layer_norm"},
        {"dual_attention_layers": [1]},
        {"caption_projection_dim": 32},
        {"num_layers": "three"},
    ],
)
def test_a_network_of_theirs_that_ours_cannot_be_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="transformer does not describe an MM-DiT"):
        from_diffusers(Given({**TINY, **change}, {}, Path("transformer/weights")))
    with pytest.raises(DataError, match="lacks pos_embed"):
        from_diffusers(Given(TINY, {}, Path("transformer/weights")))
    with pytest.raises(DataError, match="does not hold the positions"):
        from_diffusers(Given(TINY, {"pos_embed.pos_embed": torch.zeros(1, 144, 64)}, Path("transformer/weights")))
