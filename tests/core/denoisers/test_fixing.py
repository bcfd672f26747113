"""Scalars at fixed values are a part of the time's vector, in every family that takes them."""

from pathlib import Path

import pytest
import torch

from ldm.core.conditioning.crops import CROP
from ldm.core.denoisers.config import DenoiserConfig
from ldm.core.denoisers.dit_config import DiTConfig
from ldm.core.denoisers.families import FAMILIES
from ldm.core.denoisers.fixing import fixed, of_whole_images
from ldm.core.denoisers.linear_dit_config import LinearDiTConfig
from ldm.core.denoisers.mmdit_config import MMDiTConfig
from ldm.core.denoisers.mnist_unet_config import MnistUNetConfig
from ldm.core.denoisers.registry import build, require_scalars, save
from ldm.core.denoisers.text_dit_config import TextDiTConfig
from ldm.core.denoisers.unet_config import UNetConfig
from ldm.core.errors import ConfigError
from ldm.core.settings.families import kind_of

LATENTS = {"latent_channels": 2, "latent_size": 8, "num_classes": 3}
TOKENS = {**LATENTS, "patch_size": 2, "width": 32, "depth": 2, "heads": 2}
MAPS = {**LATENTS, "channels": 16, "groups": 4, "repeats": 1, "blocks": "res", "multipliers": (1, 2), "middle": "res"}
CONFIGS: dict[str, DenoiserConfig] = {
    "dit": DiTConfig(**TOKENS),
    "mmdit": MMDiTConfig(**TOKENS, text_width=16),
    "dit-text": TextDiTConfig(**TOKENS, text_width=16, text="cross"),
    "linear-dit": LinearDiTConfig(**TOKENS, text_width=16, cross_heads=4),
    "unet": UNetConfig(**MAPS, modulation="scale-shift"),
    "unet, added": UNetConfig(**MAPS, modulation="add"),
    "unet, split": UNetConfig(**MAPS, modulation="split"),
}


@torch.no_grad()
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_network_with_fixed_scalars_computes_what_it_did_at_their_values(config: DenoiserConfig) -> None:
    torch.manual_seed(0)
    network = build(config.replace(scalars=("w", "size"))).eval()
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    x, t, labels = torch.randn(3, *config.latent_shape), torch.rand(3), torch.tensor([0, 2, 3])

    def at(w: float) -> torch.Tensor:
        scalars = {"w": torch.full((3,), w), "size": torch.full((3,), 7.0)}
        result: torch.Tensor = network(x, t, {"labels": labels, **scalars})
        return result

    one, part = fixed(network, {"w": 2.5, "size": 7.0}), fixed(network, {"w": 2.5})
    assert one.config == config and part.config.scalars == ("size",)
    torch.testing.assert_close(one(x, t, {"labels": labels}), at(2.5), rtol=0, atol=1e-5)
    others = {"labels": labels, "size": torch.full((3,), 7.0)}
    torch.testing.assert_close(part(x, t, others), at(2.5), rtol=0, atol=1e-5)
    assert float((at(2.5) - at(1.0)).abs().max()) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_network_that_was_told_of_crops_is_itself_for_whole_images(config: DenoiserConfig) -> None:
    torch.manual_seed(0)
    network = build(config.replace(scalars=(CROP, "w"))).eval()
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    x, t, cond = torch.randn(3, *config.latent_shape), torch.rand(3), {"labels": torch.tensor([0, 2, 3])}
    cond["w"] = torch.full((3,), 2.0)
    whole = network(x, t, cond)
    told = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.1, -0.2], [0.0, 0.3, 0.0]])
    some = network(x, t, {**cond, CROP: told})
    torch.testing.assert_close(some[0], whole[0], rtol=0, atol=1e-6)
    assert all(float((some[row] - whole[row]).abs().max()) > 1e-3 for row in (1, 2))
    plain = of_whole_images(network)
    assert plain.config == config.replace(scalars=("w",)) and of_whole_images(plain) is plain
    torch.testing.assert_close(plain(x, t, cond), whole, rtol=0, atol=0)
    # Before any training nothing is added, whatever is told.
    fresh = build(config.replace(scalars=(CROP,))).eval()
    torch.testing.assert_close(fresh(x, t, {**cond, CROP: told}), fresh(x, t, cond), rtol=0, atol=0)


def test_a_family_without_scalars_is_named(tmp_path: Path) -> None:
    config = MnistUNetConfig(latent_channels=1, latent_size=8, width=4)
    save(build(config), tmp_path)
    with pytest.raises(ConfigError, match=r"`guidance=1,4`: the network, unet-mnist, takes no guidance scale"):
        require_scalars(tmp_path, "`guidance=1,4`")


def test_all_families_but_one_are_tried() -> None:
    assert FAMILIES.keys() - {kind_of(config, FAMILIES) for config in CONFIGS.values()} == {"unet-mnist"}
