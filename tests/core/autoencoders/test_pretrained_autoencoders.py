"""Autoencoders of diffusers from a local folder: the same numbers as the library, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from ldm.core.autoencoders import registry
from ldm.core.autoencoders.codec import Autoencoder
from ldm.core.autoencoders.pretrained import DiffusersCodec
from ldm.core.autoencoders.statistics import LatentStatistics
from ldm.core.errors import DataError

_CONV = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
}


def _kl(**settings: Any) -> Any:
    return diffusers.AutoencoderKL(**{**_CONV, "latent_channels": 3, "scaling_factor": 0.18215, **settings})


def _tiny() -> Any:
    sizes = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
    return diffusers.AutoencoderTiny(
        **sizes, num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1), latent_channels=5
    )


def _dc() -> Any:
    sides = {}
    for side in ("encoder", "decoder"):
        sides[f"{side}_block_types"] = ("ResBlock", "EfficientViTBlock")
        sides[f"{side}_block_out_channels"] = (8, 16)
        sides[f"{side}_layers_per_block"] = (1, 1)
        sides[f"{side}_qkv_multiscales"] = ((), ())
    return diffusers.AutoencoderDC(latent_channels=8, attention_head_dim=8, **sides)


def _vq() -> Any:
    return diffusers.VQModel(**_CONV, latent_channels=4, vq_embed_dim=2, num_vq_embeddings=16)


CASES: dict[str, tuple[Callable[[], Any], Callable[[Any, torch.Tensor], torch.Tensor], int, int]] = {
    # what makes one, its raw latents, channels, downsampling
    "AutoencoderKL": (_kl, lambda model, x: model.encode(x).latent_dist.mode(), 3, 2),
    "AutoencoderTiny": (_tiny, lambda model, x: model.encode(x).latents, 5, 4),
    "AutoencoderDC": (_dc, lambda model, x: model.encode(x).latent, 8, 2),
    "VQModel": (_vq, lambda model, x: model.encode(x).latents, 2, 2),
}


@pytest.mark.parametrize("name", list(CASES))
@torch.no_grad()
def test_a_folder_of_diffusers_gives_the_numbers_of_diffusers(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, encode, channels, downsampling = CASES[name]
    model = make().eval()
    model.save_pretrained(tmp_path / "theirs")
    autoencoder = registry.load(tmp_path / "theirs")
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    latents = encode(model, images)
    assert autoencoder.latent_shape(16) == (channels, 16 // downsampling, 16 // downsampling) == latents.shape[1:]
    assert torch.equal(autoencoder.encode(images), latents)
    assert torch.equal(autoencoder.decode(latents), model.decode(latents).sample.clamp(-1, 1))

    autoencoder.set_statistics(torch.randn(channels), torch.rand(channels) + 0.5)
    registry.save(autoencoder, tmp_path / "ours")
    again = registry.load(tmp_path / "ours")
    assert torch.equal(again.encode(images), autoencoder.encode(images))
    assert torch.equal(again.decode(again.encode(images)), autoencoder.decode(autoencoder.encode(images)))


@pytest.mark.parametrize("name", list(CASES))
@torch.no_grad()
def test_normalising_by_measurements_changes_nothing_that_is_decoded(name: str) -> None:
    torch.manual_seed(0)
    make, _, channels, _ = CASES[name]
    _normalised_decodes_the_same(make(), name, channels, channels if name != "VQModel" else 1)


def test_a_decoder_whose_norms_look_at_the_codes_decodes_the_same_when_normalised() -> None:
    torch.manual_seed(0)
    widths = {**_CONV, "block_out_channels": (32, 32), "norm_num_groups": 32}
    model = diffusers.VQModel(**widths, latent_channels=4, vq_embed_dim=4, num_vq_embeddings=16, norm_type="spatial")
    _normalised_decodes_the_same(model, "VQModel", 4, 4)


@torch.no_grad()
def _normalised_decodes_the_same(model: Any, kind: str, channels: int, num_deviations: int) -> None:
    autoencoder = Autoencoder(DiffusersCodec(model.eval(), kind))
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    before = autoencoder.decode(autoencoder.encode(images))
    measured = LatentStatistics(channels)
    measured.add(autoencoder.codec.encode(images).mean)
    autoencoder.normalise_by(measured)
    latents = autoencoder.encode(images)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3), unbiased=False), torch.ones(channels), rtol=0, atol=1e-4)
    torch.testing.assert_close(autoencoder.decode(latents), before, rtol=0, atol=1e-5)
    assert len(set(autoencoder.latent_std.tolist())) == num_deviations


@torch.no_grad()
def test_moments_of_a_kl_autoencoder_are_normalised_like_its_latents(tmp_path: Path) -> None:
    model = _kl().eval()
    model.save_pretrained(tmp_path)
    autoencoder = registry.load(tmp_path)
    shift, scale = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([2.0, 0.5, 3.0])
    autoencoder.set_statistics(shift, scale)
    images = torch.rand(1, 3, 8, 8) * 2 - 1
    mean, std = autoencoder.posterior(images)
    theirs = model.encode(images).latent_dist
    assert std is not None
    torch.testing.assert_close(mean, (theirs.mean - shift[:, None, None]) / scale[:, None, None])
    torch.testing.assert_close(std, theirs.std / scale[:, None, None])


def test_the_library_says_nothing_past_our_messages(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _kl().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "unheard_of": 1}))
    capfd.readouterr()
    before = diffusers.utils.logging.get_verbosity()
    registry.load(tmp_path)
    assert capfd.readouterr() == ("", "") and diffusers.utils.logging.get_verbosity() == before


def test_pickled_weights_are_refused_and_the_remedy_is_said(tmp_path: Path) -> None:
    _kl().save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(DataError, match=r"diffusion_pytorch_model\.bin is a pickle.*safe_serialization=True"):
        registry.load(tmp_path)


def test_a_foreign_class_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(DataError, match=r"UNet2DModel.*AutoencoderKL"):
        registry.load(tmp_path)


def test_a_whole_pipeline_points_at_its_autoencoder(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(DataError, match=r"whole diffusers pipeline.*vae"):
        registry.load(tmp_path)


def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path: Path) -> None:
    _kl().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change in ({"layers_per_block": 2}, {"latent_channels": 4}, {"block_out_channels": "x"}):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(DataError, match=str(tmp_path)):
            registry.load(tmp_path)


def test_an_autoencoder_of_other_than_rgb_images_is_refused(tmp_path: Path) -> None:
    _kl(in_channels=1, out_channels=1).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="in_channels 1"):
        registry.load(tmp_path)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    _vq().save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=str(tmp_path)):
        registry.load(tmp_path)
