"""The files that plots are written to."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.core.errors import ConfigError
from ldm.core.plots.picture import claim_picture, write_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_what_is_written_is_a_png_of_the_pixels_and_always_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / name, PIXELS)
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG" and image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), PIXELS)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_missing_folder_is_made_and_an_own_picture_may_be_drawn_anew(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "plot.png"
    claim_picture(path)
    write_picture(path, PIXELS)
    claim_picture(path)
    write_picture(path, 255 - PIXELS)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), 255 - PIXELS)


@pytest.mark.parametrize("kind", ["photo", "text", "folder", "jpeg"])
def test_a_file_that_is_not_ours_is_refused_and_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("notes")
    else:
        Image.fromarray(PIXELS).save(path, format="PNG" if kind == "photo" else "JPEG")
    before = None if kind == "folder" else path.read_bytes()
    with pytest.raises(ConfigError, match=r"mine\.png` exists and was not drawn by ldm plot"):
        claim_picture(path)
    assert path.is_dir() if before is None else path.read_bytes() == before
