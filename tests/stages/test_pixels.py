"""A denoiser of pixels is trained on the images themselves: nothing has to be encoded first."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ldm.core.errors import ConfigError, DataError, Stopped
from ldm.core.progress import Silent
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from tests.support.pipeline_run import Heard, Pipeline, manifest, pngs, write_squares


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run whose autoencoder leaves pixels as they are, and a denoiser trained without latents."""
    root = tmp_path_factory.mktemp("pixels")
    pipeline = Pipeline(root / "runs", write_squares(root / "squares", size=16))
    made = pipeline.run("train-vqvae", model={"preset": "identity-grey"})
    assert [command.split()[1] for command in made.next_commands] == ["train-denoiser"]
    pipeline.run("train-dit")
    return pipeline


def weights(pipeline: Pipeline) -> dict[str, torch.Tensor]:
    return load_file(pipeline.folder / "dit" / "final" / "model.safetensors")


def test_a_denoiser_of_pixels_needs_no_latents(pixels: Pipeline) -> None:
    assert not (pixels.folder / "latents").exists()
    made = manifest(pixels.folder / "dit")
    assert made["inputs"].keys() == {"data", "autoencoder"} and made["facts"]["latent_shape"] == [1, 16, 16]
    assert made["inputs"]["data"]["fingerprint"] == manifest(pixels.folder / "vqvae")["inputs"]["data"]["fingerprint"]
    assert len(pngs(pixels.run("sample", num=1).directory)) == 3
    assert pixels.run("eval", bits_per_dim=True).summary
    pixels.run("train-classifier", noisy=True, noisy_model={"width": 32, "depth": 1, "heads": 2})
    assert len(pngs(pixels.run("sample", num=1, label="guided", classifier_scale=1.0).directory)) == 3
    verify.run(Verify(path=pixels.folder), Silent())


def test_a_denoiser_of_one_noise_level_shows_what_it_denoises_and_draws_nothing(
    pixels: Pipeline, tmp_path: Path
) -> None:
    copy = pixels.copy(tmp_path)
    fixed = {"objective": "fixed-noise", "sigma": 0.7}
    made = copy.run("train-dit", replace=True, diffusion=fixed, preview={"every": 32, "per_class": 2})
    assert not made.next_commands
    # Two images, each in two rows: with noise of seven levels, and denoised.
    picture = np.asarray(Image.open(made.pictures[0]))
    assert picture.shape[1] > 7 * 64 and picture.shape[0] > 4 * 64
    for command, settings in {"sample": {"steps": 1}, "eval": {"bits_per_dim": True}}.items():
        with pytest.raises(ConfigError, match="one noise level"):
            copy.run(command, **settings)
    with pytest.raises(ConfigError, match="one noise level"):
        copy.run("train-dit", replace=True, diffusion=fixed, metrics={"every": 32, "num": 10})


def test_a_denoiser_of_noise_alone_draws_in_one_step(pixels: Pipeline, tmp_path: Path) -> None:
    copy = pixels.copy(tmp_path)
    alone = {"objective": "fixed-noise", "pure_noise": True, "zero_terminal_snr": True}
    made = copy.run("train-dit", replace=True, diffusion=alone)
    assert [command.split()[1] for command in made.next_commands] == ["sample"]
    drawn = {
        spacing: copy.run("sample", num=1, steps=1, spacing=spacing).directory for spacing in ("leading", "trailing")
    }
    assert manifest(drawn["leading"])["facts"]["sampling"]["steps"] == 1
    assert pngs(drawn["leading"]) == pngs(drawn["trailing"])
    with pytest.raises(ConfigError, match="all in one step"):
        copy.run("sample", label="two", steps=2)


def test_samples_of_pixels_can_be_clipped_and_those_of_latents_cannot(pixels: Pipeline, trained: Pipeline) -> None:
    made = pixels.run("sample", num=1, clip="dynamic", label="clipped").directory
    assert manifest(made)["facts"]["sampling"]["clip"] == "dynamic" and len(pngs(made)) == 3
    with pytest.raises(ConfigError, match="`clip=static` is for models of pixels"):
        trained.run("sample", clip="static", label="clipped")
    assert not (trained.folder / "samples" / "clipped").exists()


def test_training_on_pixels_ends_in_the_weights_of_training_on_their_latents(pixels: Pipeline, tmp_path: Path) -> None:
    """But for the rounding of latents to float16: samples, flips, noise and times are the same."""
    encoded = Pipeline(tmp_path, pixels.images)
    shutil.copytree(pixels.folder / "vqvae", encoded.folder / "vqvae")
    encoded.through("encode", "train-dit")
    assert "latents" in manifest(encoded.folder / "dit")["inputs"]
    ours, theirs = weights(pixels), weights(encoded)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in ours)
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_interrupted_training_on_pixels_goes_on_to_the_same_weights(
    pixels: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm.core.latents.from_images import EncodedImages

    copy = pixels.copy(tmp_path)
    shutil.rmtree(copy.folder / "dit")
    batch, count = EncodedImages.batch, 0

    def stopping(self: EncodedImages, samples: np.ndarray, *rest: object, **more: object) -> torch.Tensor:
        nonlocal count
        count += 1
        if count == 4:
            raise Stopped("stopped in the middle")
        return batch(self, samples, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(EncodedImages, "batch", stopping)
    with pytest.raises(Stopped):
        copy.run("train-dit", train__checkpoint_every=16)
    monkeypatch.undo()
    copy.run("train-dit", Heard(), train__checkpoint_every=16)
    found, whole = weights(copy), weights(pixels)
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_images_that_changed_since_they_were_measured_are_not_trained_on(pixels: Pipeline, tmp_path: Path) -> None:
    images = Path(shutil.copytree(pixels.images, tmp_path / "squares"))
    other = Pipeline(tmp_path / "runs", images)
    other.run("train-vqvae", model={"preset": "identity"})
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(next(images.rglob("*.png")))
    with pytest.raises(DataError, match=r"holds other images than those that .*vqvae was measured on"):
        other.run("train-dit")


def test_an_autoencoder_that_computes_latents_still_needs_them_written(pixels: Pipeline, tmp_path: Path) -> None:
    other = Pipeline(tmp_path, pixels.images)
    other.run("train-vqvae")
    with pytest.raises(DataError, match=r"latents .*ldm encode"):
        other.run("train-dit")
