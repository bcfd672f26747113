"""Images of one size that is not square, through the stages."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.core.errors import ConfigError
from ldm.core.images.decode import to_training, write_png
from tests.support.exchanged import run_export
from tests.support.pipeline_run import Pipeline, manifest, write_squares

HEIGHT, WIDTH = 16, 24


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    root = tmp_path_factory.mktemp("wide")
    pipeline = Pipeline(root / "runs", write_squares(root / "squares", per_class=12))
    data = {"source": str(pipeline.images), "image_size": HEIGHT, "image_width": WIDTH, "val_fraction": 0.25}
    pipeline.run("train-vqvae", data=data, train__images=16)
    pipeline.run("encode")
    made = manifest(pipeline.run("train-dit", train__images=16, train__validate_every=16, preview__every=16).directory)
    assert made["facts"]["latent_shape"][1:] == [4, 6]
    assert (made["facts"]["image_size"], made["facts"]["image_width"]) == (HEIGHT, WIDTH)
    return pipeline


def test_samples_have_the_size_of_the_images(wide: Pipeline) -> None:
    drawn = wide.run("sample", num=1).directory
    assert {Image.open(path).size for path in drawn.glob("0*.png")} == {(WIDTH, HEIGHT)}
    with pytest.raises(ConfigError, match="squares"):
        wide.run("sample", num=1, image_size=32)


def test_what_an_edit_keeps_is_the_image_at_that_size(wide: Pipeline, tmp_path: Path) -> None:
    write_png(tmp_path / "black.png", np.zeros((2, 2), np.uint8))
    given = wide.images / "red/003.png"
    (kept,) = wide.run("edit", images=[str(given)], mask=tmp_path / "black.png").directory.glob("0*.png")
    assert Image.open(kept).tobytes() == to_training(Image.open(given), (HEIGHT, WIDTH)).tobytes()
    (around,) = wide.run("edit", images=[str(given)], outpaint="left=8", label="out").directory.glob("0*.png")
    assert Image.open(around).size == (WIDTH, HEIGHT)


def test_evaluation_takes_them(wide: Pipeline) -> None:
    wide.run("train-classifier", train__images=8)
    assert np.isfinite(manifest(wide.run("eval", of="reconstructions").directory)["facts"]["numbers"]["psnr"])


def test_what_is_of_squares_alone_is_refused(wide: Pipeline) -> None:
    for settings in ({}, {"part": "autoencoder"}):
        with pytest.raises(ConfigError, match="not square"):
            run_export(wide, wide.runs_dir / "exported", **settings)
    with pytest.raises(ConfigError, match="not square"):
        wide.run("anagram", view="rotate90", classes=("red", "blue"))
