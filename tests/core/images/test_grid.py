"""Grids hold every image unchanged at its place; animations hold every frame."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from ldm.core.images import grid

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 20, 24, 3), dtype=np.uint8)


def places_of(image, page):
    """Find where an image lies in a page, by its first row."""
    height, width = image.shape[:2]
    return [
        (y, x)
        for y in range(page.shape[0] - height + 1)
        for x in range(page.shape[1] - width + 1)
        if (page[y, x] == image[0, 0]).all() and (page[y : y + height, x : x + width] == image).all()
    ]


@pytest.mark.parametrize("columns", [None, 1, 3, 7, 9])
def test_every_image_is_in_the_grid_unchanged_in_reading_order(columns):
    page = grid.grid(IMAGES, columns)
    places = [places_of(image, page) for image in IMAGES]
    assert all(len(found) == 1 for found in places)
    assert places == sorted(places)
    assert len({found[0][0] for found in places}) == -(-7 // (columns or 3))


def test_scaling_makes_squares_of_pixels():
    page = grid.grid(IMAGES[:1], scale=3)
    assert len(places_of(np.repeat(np.repeat(IMAGES[0], 3, axis=0), 3, axis=1), page)) == 1


def test_letters_beyond_ascii_are_drawn_and_not_all_as_one_box():
    pages = [grid.grid(IMAGES[:1], row_labels=[letter]) for letter in "éüжλ"]
    assert all((a.shape != b.shape) or (a != b).any() for a, b in combinations(pages, 2))


def test_symbols_that_the_font_lacks_are_named_and_not_drawn_as_one_box():
    assert grid.drawable("🦊") == "[fox face]" and grid.drawable("red 🦊️ é") == "red [fox face] é"
    assert grid.drawable("猫") != grid.drawable("犬") and "732b" in grid.drawable("猫").lower()
    assert grid.drawable("Ж λ ß") == "Ж λ ß" and grid.drawable("cat\n\udcff") == "cat ?"
    pages = [grid.grid(IMAGES[:1], row_labels=[letter]) for letter in "🦊🦁"]
    assert pages[0].shape != pages[1].shape or (pages[0] != pages[1]).any()


def test_a_long_name_loses_its_middle_and_keeps_both_ends():
    names = [f"a very long name of a product in {colour}" for colour in ("red", "blue")]
    short = [grid.shorter(name, 24) for name in names]
    assert [len(name) for name in short] == [24, 24] and short[0] != short[1] and grid.shorter("cat", 24) == "cat"


@pytest.mark.parametrize("kind", ["labels", "row_labels", "column_labels"])
def test_labels_add_ink_beside_the_images_and_leave_them_unchanged(kind):
    texts = ["a", "", "", "", "", "", "garbage truck of a very long name 😀 \udcff"]
    texts = {"labels": texts, "row_labels": texts[-3:], "column_labels": texts[-3:]}[kind]
    page = grid.grid(IMAGES, 3, **{kind: texts})
    assert all(len(places_of(image, page)) == 1 for image in IMAGES)
    plain = grid.grid(IMAGES, 3, **{kind: [""] * len(texts)})
    if kind == "row_labels":
        assert page.shape[1] > plain.shape[1]
    else:
        assert page.shape == plain.shape and (page != plain).any()


def test_as_many_columns_as_images_are_one_row():
    page = grid.grid(IMAGES, columns=len(IMAGES))
    assert [places_of(image, page)[0][0] for image in IMAGES] == [2] * 7 and page.shape[0] == 24


@pytest.mark.parametrize("suffix", [".webp", ".png", ".gif"])
def test_an_animation_holds_every_frame(tmp_path, suffix):
    frames = [np.full((8, 10, 3), 30 * number, dtype=np.uint8) for number in range(5)]
    grid.animation(frames, tmp_path / f"a{suffix}")
    with Image.open(tmp_path / f"a{suffix}") as picture:
        assert picture.n_frames == 5
        for number, frame in enumerate(frames):
            picture.seek(number)
            np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), frame)
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]
