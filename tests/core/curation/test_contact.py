"""A contact sheet shows images as training sees them, each in the row of its class."""

import numpy as np
import pytest
from PIL import Image

from ldm.core.curation.contact_sheet import Strip, class_strips, packed, require_new, write_sheet
from ldm.core.errors import ConfigError
from ldm.core.images.dataset import image_source
from tests.core.images.test_grid import places_of
from tests.support.pictured import png

SHADES = np.arange(0, 240, 20, dtype=np.uint8)


def labelled(broken: tuple[int, ...] = ()):
    """Twelve plain images of 64 x 64 pixels, each of its own shade, four of each of three classes."""
    data = [b"" if row in broken else png(np.full((64, 64, 3), shade, np.uint8)) for row, shade in enumerate(SHADES)]
    labels = np.repeat([0, 1, 2], 4)
    return image_source("here", [f"{row:02d}.png" for row in range(12)], data.__getitem__, labels, ["a", "b", "c"])


def shades(strip: Strip) -> set[int]:
    return {int(image[0, 0, 0]) for image in strip.images}


def test_each_class_has_a_row_of_its_own_images_at_the_size_of_training():
    strips = class_strips(labelled(), 64, columns=3, rows=10)
    assert [strip.label for strip in strips] == ["a (4)", "b (4)", "c (4)"]
    for label, strip in enumerate(strips):
        assert len(strip.images) == len(shades(strip)) == 3
        assert shades(strip) <= set(SHADES[4 * label : 4 * label + 4].tolist())
    assert {image.shape for strip in class_strips(labelled(), 16, 3, 10) for image in strip.images} == {(16, 16, 3)}


def test_broken_images_are_passed_over_and_a_class_of_them_is_an_empty_row(tmp_path):
    strips = class_strips(labelled(broken=(0, 4, 5, 6, 7)), 64, columns=4, rows=10)
    assert [len(strip.images) for strip in strips] == [3, 0, 4] and shades(strips[0]) == {20, 40, 60}
    write_sheet(tmp_path / "sheet.png", strips)
    page = np.asarray(Image.open(tmp_path / "sheet.png"))
    for strip in strips:
        assert all(len(places_of(image, page)) == 1 for image in strip.images)


def test_of_too_many_classes_some_are_shown_from_first_to_last():
    strips = class_strips(labelled(), 64, columns=1, rows=2)
    assert [strip.label[0] for strip in strips] == ["a", "c"]


def test_short_strips_share_rows_with_a_gap_and_none_is_broken():
    images = [np.full((8, 8, 3), shade, np.uint8) for shade in range(0, 100, 10)]
    strips = [
        Strip("", images[start:stop], ["x"] * (stop - start)) for start, stop in ((0, 2), (2, 4), (4, 9), (9, 10))
    ]
    rows = packed(strips, columns=5, rows=9)
    assert [len(row.images) for row in rows] == [5, 5, 1] and [len(row.captions) for row in rows] == [5, 5, 1]
    assert [int(image[0, 0, 0]) for image in rows[0].images] == [0, 10, 255, 20, 30]
    assert len(packed(strips, columns=5, rows=2)) == 2 and packed([], 5, 2) == []
    assert [len(row.images) for row in packed([Strip("", images, [""] * 10)], columns=4, rows=3)] == [4]


def test_nothing_is_written_over_unless_asked(tmp_path):
    (tmp_path / "there.png").write_bytes(b"mine")
    require_new(tmp_path / "new.png", False, "sheet")
    require_new(tmp_path / "there.png", True, "sheet")
    for path, replace, says in (
        (tmp_path / "there.png", False, "sheet=.*there.png` exists, and is not overwritten"),
        (tmp_path, True, "exists"),
        (tmp_path / "nowhere" / "new.png", True, "nowhere is not a folder"),
    ):
        with pytest.raises(ConfigError, match=says):
            require_new(path, replace, "sheet")
