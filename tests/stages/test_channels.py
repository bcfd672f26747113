"""Grey and see-through images through the stages: samples, edits and reconstructions have the channels of the data."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.core.errors import ConfigError
from ldm.core.images.decode import write_png
from tests.support.pipeline_run import Pipeline, manifest

MODES = {1: "L", 4: "RGBA"}
SIDE = 16


def write_images(folder: Path, channels: int) -> Path:
    """Write discs of two classes: grey ones, or of a colour around which all is see-through."""
    down, right = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    inside = np.hypot(down, right) < 6
    for label, name in enumerate(("a", "b")):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.full((SIDE, SIDE, channels), (255, 255, 255, 0)[:channels], np.uint8)
            pixels[inside] = (200 - 5 * number, 40 * label, 90, 255)[:channels]
            write_png(folder / name / f"{number}.png", pixels)
    return folder


@pytest.fixture(scope="module", params=MODES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Pipeline]:
    root, channels = tmp_path_factory.mktemp("channels"), request.param
    pipeline = Pipeline(root / "runs", write_images(root / "images", channels))
    data = {"source": str(pipeline.images), "image_size": SIDE, "val_fraction": 0.25, "channels": channels}
    pipeline.run("train-vqvae", data=data, train__images=16, loss={"adversarial_weight": 0.1, "adversarial_start": 0})
    pipeline.run("encode")
    pipeline.run("train-dit", train__images=16, train__validate_every=16, preview__every=16)
    return channels, pipeline


def test_samples_and_edits_have_the_channels_of_the_images(trained: tuple[int, Pipeline], tmp_path: Path) -> None:
    channels, pipeline = trained
    drawn = pipeline.run("sample", num=1).directory
    assert {Image.open(path).mode for path in drawn.glob("0*.png")} == {MODES[channels]}
    write_png(tmp_path / "black.png", np.zeros((2, 2), np.uint8))
    given = pipeline.images / "a/3.png"
    kept = pipeline.run("edit", images=[str(given)], mask=tmp_path / "black.png").directory
    (edited,) = kept.glob("0*.png")
    assert Image.open(edited).tobytes() == Image.open(given).tobytes()


def test_evaluation_sees_them_as_networks_of_colours_do(trained: tuple[int, Pipeline]) -> None:
    _, pipeline = trained
    pipeline.run("train-classifier", train__images=8)
    made = manifest(pipeline.run("eval", of="reconstructions").directory)
    assert np.isfinite(made["facts"]["numbers"]["psnr"])


def test_an_autoencoder_of_other_channels_is_refused(trained: tuple[int, Pipeline]) -> None:
    channels, pipeline = trained
    with pytest.raises(ConfigError, match=f"channels=3.* {channels}"):
        pipeline.run("encode", data={"channels": 3})
    ready = {"source": str(pipeline.images), "image_size": SIDE, "channels": 3}
    with pytest.raises(ConfigError, match=f"channels=3.* {channels}"):
        Pipeline(pipeline.runs_dir, pipeline.images, "other").run(
            "train-autoencoder", data=ready, autoencoder=pipeline.folder / "vqvae" / "final"
        )


@pytest.mark.parametrize("channels", MODES)
def test_pixels_are_trained_in_their_channels(channels: int, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path / "runs", write_images(tmp_path / "images", channels))
    data = {"source": str(pipeline.images), "image_size": SIDE, "val_fraction": 0.25, "channels": channels}
    pipeline.run("train-vqvae", data=data, model={"preset": "identity"})
    made = manifest(pipeline.run("train-dit", train__images=8, preview__every=0).directory)
    assert made["facts"]["latent_shape"] == [channels, SIDE, SIDE]
