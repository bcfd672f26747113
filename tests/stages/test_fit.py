"""`data.fit` through the stages: images are padded or stretched alike in training, encoding and evaluation."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.core.images.decode import to_training, write_png
from ldm.core.images.sets import image_sources
from ldm.core.images.settings import Data
from ldm.core.progress import Silent
from tests.support.pipeline_run import Pipeline, manifest, pngs


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 24 x 12 pixels, blue to the left and red to the right."""
    folder = tmp_path_factory.mktemp("wide") / "images"
    pixels = np.zeros((12, 24, 3), np.uint8)
    pixels[:, :12], pixels[:, 12:] = (0, 0, 250), (250, 0, 0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(16):
            pixels[0, 0] = number, 0, 0
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_the_whole_image_is_seen_padded_or_stretched(wide: Path) -> None:
    seen = {}
    for fit in ("crop", "pad", "stretch"):
        data = Data.model_validate(
            {"source": str(wide), "image_size": 12, "fit": fit, "background": "#00ff00", "val_fraction": 0.3}
        )
        seen[fit] = image_sources(data).read(Silent()).train.batch(np.array([0]))[0]
    assert (seen["pad"][:2] == (0, 255, 0)).all() and (seen["pad"][-2:] == (0, 255, 0)).all()
    for fit in ("pad", "stretch"):
        assert seen[fit][6, 1, 2] > 240 and seen[fit][6, -2, 0] > 240
    assert not np.array_equal(seen["crop"], seen["stretch"])


def test_later_stages_take_images_as_the_autoencoders_training_did(wide: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, wide)
    pipeline.run("train-vqvae", data={"source": str(wide), "image_size": 12, "fit": "pad"}, train__images=8)
    latents = manifest(pipeline.run("encode").directory)
    assert latents["config"]["data"]["fit"] == "pad" and latents["facts"]["crop"] == "none, padded"
    assert manifest(pipeline.run("train-classifier", train__images=8).directory)["config"]["data"]["fit"] == "pad"
    settings = {"train__images": 8, "train__validate_every": 8, "preview__every": 0, "model__patch_size": 1}
    pipeline.run("train-dit", **settings)
    write_png(tmp_path / "black.png", np.zeros((2, 2), np.uint8))
    kept = pipeline.run("edit", images=[str(wide / "a/3.png")], mask=tmp_path / "black.png").directory
    (edited,) = pngs(kept).values()
    expected = to_training(Image.open(wide / "a/3.png"), 12, "pad")
    assert edited == expected.tobytes() and (expected[:2] == 255).all()
