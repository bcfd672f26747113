"""`ldm export --part autoencoder` and `ldm import` of an autoencoder: the same latents and images on both sides."""

import shlex
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from ldm.cli.main import run as ldm
from ldm.core.autoencoders import registry
from ldm.core.errors import ConfigError, DataError
from ldm.core.progress import Silent
from ldm.stages.configs.folders import Inspect, Verify
from ldm.stages.tools import inspect, verify
from tests.support.exchanged import run_export, run_import
from tests.support.pipeline_run import Pipeline, manifest, write_squares

PUBLISHED = {"preset": "kl-f4", "channels": 32, "channel_multipliers": [1, 2], "num_res_blocks": 1}
LAYERS: dict[str, Any] = {"block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 4}
LAYERS |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Two runs: one of the published layout, `tiny`, and one of the fast layout, `fast`."""
    root = tmp_path_factory.mktemp("trained")
    pipeline = Pipeline(root / "runs", write_squares(root / "squares", per_class=8))
    pipeline.run("train-autoencoder", model={**PUBLISHED, "num_decoder_blocks": 2}, train__images=32)
    Pipeline(root / "runs", pipeline.images, "fast").run(
        "train-autoencoder", model={"preset": "kl-f4-xs"}, train__images=32
    )
    return pipeline


@torch.no_grad()
def test_there_and_back_encodes_and_decodes_the_same(trained: Pipeline, tmp_path: Path) -> None:
    run_export(trained, tmp_path / "out", part="autoencoder")
    assert run_export(trained, tmp_path / "out", part="autoencoder").already_complete
    theirs: Any = diffusers.AutoencoderKL.from_pretrained(tmp_path / "out")
    ours = registry.load(trained.folder / "autoencoder" / "final")
    images, latents = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 3, 8, 8)
    posterior, decoded = theirs.encode(images).latent_dist, theirs.decode(latents).sample.clamp(-1, 1)
    mean, std = ours.posterior(images)
    assert std is not None
    torch.testing.assert_close(posterior.mean, mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(posterior.std, std, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(decoded, ours.decode(latents), rtol=0, atol=1e-5)

    back = Pipeline(tmp_path / "runs", trained.images, "back")
    run_import(back, tmp_path / "out", image_size=16)
    assert run_import(back, tmp_path / "out", image_size=16).already_complete
    again = registry.load(back.folder / "autoencoder" / "final")
    assert again.codec.kind == ours.codec.kind
    torch.testing.assert_close(again.posterior(images).mean, mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again.decode(latents), decoded, rtol=0, atol=1e-5)
    back.run("encode", data={"source": str(trained.images), "val_fraction": 0.25})
    assert manifest(back.folder / "latents")["facts"]["class_names"] == ["blue", "green", "red"]
    assert verify.run(Verify(path=back.folder), Silent()).verdict == "is whole"


@torch.no_grad()
def test_the_fast_layout_decodes_in_stock_layers_and_says_that_it_does_not_encode(
    trained: Pipeline, tmp_path: Path
) -> None:
    fast = Pipeline(trained.runs_dir, trained.images, "fast")
    run_export(fast, tmp_path / "out", part="autoencoder")
    theirs: Any = diffusers.AutoencoderKL.from_pretrained(tmp_path / "out")
    ours, latents = registry.load(fast.folder / "autoencoder" / "final"), torch.randn(2, 4, 4, 4)
    torch.testing.assert_close(theirs.decode(latents).sample.clamp(-1, 1), ours.decode(latents), rtol=0, atol=5e-4)
    assert theirs.encode(torch.zeros(1, 3, 16, 16)).latent_dist.mean.isnan().all()
    assert "decodes only" in (tmp_path / "out" / "README.md").read_text()


def test_a_damaged_export_is_named_and_the_named_command_mends_it(trained: Pipeline, tmp_path: Path) -> None:
    run_export(trained, tmp_path / "out", part="autoencoder")
    assert inspect.run(Inspect(path=tmp_path / "out"), Silent()).verdict == "is an export"
    (tmp_path / "out" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(DataError, match=r"pytorch_model\.safetensors is missing") as error:
        verify.run(Verify(path=tmp_path / "out"), Silent())
    command = str(error.value.remedy).rpartition("make it again: ")[2]
    assert ldm([*shlex.split(command)[1:], "--quiet"]) == 0
    assert verify.run(Verify(path=tmp_path / "out"), Silent()).verdict == "is whole"


@torch.no_grad()
def test_an_imported_latent_space_is_that_of_its_scale_and_shift(trained: Pipeline, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs: Any = diffusers.AutoencoderKL(**LAYERS, scaling_factor=1.5, shift_factor=0.25, sample_size=16).eval()
    theirs.save_pretrained(tmp_path / "given")
    run = Pipeline(tmp_path / "runs", trained.images)
    run_import(run, tmp_path / "given")
    ours, images = registry.load(run.folder / "autoencoder" / "final"), torch.rand(2, 3, 16, 16) * 2 - 1
    wanted = (theirs.encode(images).latent_dist.mean - 0.25) * 1.5
    torch.testing.assert_close(ours.encode(images), wanted, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused_by_name(trained: Pipeline, tmp_path: Path) -> None:
    run = Pipeline(tmp_path / "runs", trained.images)
    diffusers.AutoencoderKL(**{**LAYERS, "act_fn": "relu"}).save_pretrained(tmp_path / "relu")
    with pytest.raises(DataError, match="act_fn is relu"):
        run_import(run, tmp_path / "relu")
    diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).save_pretrained(tmp_path / "tiny")
    with pytest.raises(DataError, match="no family here has the layers") as error:
        run_import(run, tmp_path / "tiny", image_size=16)
    assert "ldm train-autoencoder --data FOLDER --autoencoder" in str(error.value.remedy)
    with pytest.raises(ConfigError, match="`heads` applies to a denoiser"):
        run_import(run, tmp_path / "relu", heads=2)
    with pytest.raises(ConfigError, match="`denoiser` has no effect"):
        run_export(trained, tmp_path / "out", part="autoencoder", denoiser=tmp_path)
    assert not (tmp_path / "out").exists() and not run.folder.exists()
