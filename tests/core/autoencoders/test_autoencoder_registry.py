"""Presets, and autoencoders to and from a folder."""

import json
from pathlib import Path

import pytest
import torch

from ldm.core.autoencoders import registry
from ldm.core.autoencoders.codec import Autoencoder
from ldm.core.autoencoders.families import FAMILIES
from ldm.core.autoencoders.vq import VQVAE
from ldm.core.autoencoders.vq_config import PRESETS, VQVAEConfig
from ldm.core.errors import ConfigError, DataError
from ldm.core.settings.families import config_of_preset

TINY = VQVAEConfig(channels=8, channel_multipliers=(1, 2), num_res_blocks=1, latent_channels=3, codebook_size=16)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Autoencoder, Path]:
    torch.manual_seed(0)
    autoencoder = registry.build(TINY).eval().requires_grad_(False)
    autoencoder.set_statistics(torch.tensor([0.1, -2.0, 1 / 3]), torch.tensor([0.7, 3.0, 1e-3]))
    registry.save(autoencoder, tmp_path / "final", {"image_size": 8})
    return autoencoder, tmp_path / "final"


def _edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_saving_and_loading_changes_no_bit(saved: tuple[Autoencoder, Path]) -> None:
    autoencoder, folder = saved
    loaded = registry.load(folder)
    before, after = autoencoder.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    assert torch.equal(loaded.encode(images), autoencoder.encode(images))
    assert not loaded.training


def test_a_loaded_network_lies_in_memory_as_a_built_one(saved: tuple[Autoencoder, Path]) -> None:
    autoencoder, folder = saved
    before, after = (each.state_dict() for each in (autoencoder, registry.load(folder)))
    assert all(before[name].stride() == after[name].stride() for name in before)


def test_saving_twice_writes_the_same_bytes(saved: tuple[Autoencoder, Path], tmp_path: Path) -> None:
    _, folder = saved
    names = registry.save(registry.load(folder), tmp_path / "again", {"image_size": 8})
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert all((folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_shrink_as_their_names_say(name: str) -> None:
    config = VQVAEConfig(**PRESETS[name])
    with torch.device("meta"):
        vqvae = VQVAE(config)
        latents = vqvae.encoder(torch.empty(1, 3, 64, 64))
        assert vqvae.decoder(latents).shape == (1, 3, 64, 64)
    expected = {"vqvae-f8": 8, "vqvae-f16": 16}.get(name, 4)
    assert latents.shape == (1, config.latent_channels, 64 // expected, 64 // expected)
    assert config.downsampling == expected


def test_a_preset_can_be_changed_and_an_unknown_name_is_corrected() -> None:
    changed = VQVAEConfig(**PRESETS["vqvae-s"]).replace(codebook_size=64)
    assert config_of_preset("vqvae-s", FAMILIES, codebook_size=64) == changed
    with pytest.raises(ConfigError, match="did you mean vqvae-xs"):
        config_of_preset("vqvae-xxs", FAMILIES)
    with pytest.raises(ConfigError, match="did you mean codebook_size"):
        config_of_preset("vqvae-s", FAMILIES, codebok_size=64)


def test_weights_of_another_size_are_refused_by_name(saved: tuple[Autoencoder, Path]) -> None:
    _, folder = saved
    _edit(folder, config=dict(TINY.__dict__) | {"codebook_size": 32})
    with pytest.raises(DataError, match=r"model.safetensors does not fit the network: quantizer.codes has shape \(16"):
        registry.load(folder)


def test_weights_with_another_number_of_blocks_are_refused_by_name(saved: tuple[Autoencoder, Path]) -> None:
    _, folder = saved
    _edit(folder, config=dict(TINY.__dict__) | {"num_res_blocks": 2})
    with pytest.raises(DataError, match=r"model\.safetensors does not fit the network"):
        registry.load(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 99}, "format 99"),
        ({"kind": "os.system"}, "kind 'os.system'"),
        ({"kind": ["vqvae"]}, "kind"),
        ({"config": None}, "config.json is damaged"),
        ({"config": {"no_such_field": 1}}, "no_such_field"),
        ({"config": {"channels": "many"}}, "does not describe a vqvae"),
        ({"config": {"num_res_blocks": 10**9}}, "num_res_blocks is 1000000000"),
        ({"config": {"channel_multipliers": [1] * 5000}}, "shrink images"),
        ({"config": {"channels": 10**12}}, "config.json"),
        ({"config": {"codebook_size": 10**9}}, "does not fit"),
        ({"latent_std": [1.0]}, "latent_std"),
        ({"latent_mean": ["x", 1.0, 2.0]}, "latent_mean"),
        ({"latent_std": [0.0, 1.0, 1.0]}, "latent channel 0"),
    ],
)
def test_a_damaged_configuration_is_named(
    saved: tuple[Autoencoder, Path], changes: dict[str, object], said: str
) -> None:
    _, folder = saved
    _edit(folder, **changes)
    with pytest.raises(DataError, match=said):
        registry.load(folder)


def test_missing_and_damaged_files_are_named(saved: tuple[Autoencoder, Path], tmp_path: Path) -> None:
    _, folder = saved
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(DataError, match=r"model\.safetensors is not a readable"):
        registry.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors does not exist"):
        registry.load(folder)
    with pytest.raises(DataError, match=r"config\.json does not exist"):
        registry.load(tmp_path / "nowhere")


def test_taef2_reconstructs_a_smooth_picture_and_is_saved_as_safetensors(shared: Path, tmp_path: Path) -> None:
    autoencoder = registry.load(shared / "weights" / "taef2").requires_grad_(False)
    ramp = torch.linspace(-0.8, 0.8, 64)
    images = torch.stack([ramp.expand(64, 64), ramp.expand(64, 64).T, -ramp.expand(64, 64)])[None]
    latents = autoencoder.encode(images)
    assert latents.shape == (1, *autoencoder.latent_shape(64)) == (1, 32, 8, 8)
    error = (autoencoder.decode(latents) - images).square().mean()
    assert -10 * torch.log10(error / 4) > 28  # PSNR in dB; without the range conversions it is under 10
    registry.save(autoencoder, tmp_path / "own")
    again = registry.load(tmp_path / "own")
    assert torch.equal(again.encode(images), latents)


def test_a_changed_taef2_file_is_not_unpickled(tmp_path: Path) -> None:
    (tmp_path / "taef2_encoder.pth").write_bytes(b"not the published file")
    with pytest.raises(DataError, match=r"taef2_encoder\.pth is damaged or another file"):
        registry.load(tmp_path)
