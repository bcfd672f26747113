"""Masks cover the images that they are of, at any size, and what they keep stays to the byte."""

import numpy as np
import pytest
from PIL import Image

from ldm.core.errors import DataError
from ldm.core.images.loader import Preparation
from ldm.core.images.masks import boxed, feathered, masked_by, outpainted, pasted


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def test_a_mask_of_any_size_is_cropped_as_its_image_is() -> None:
    left_half = np.zeros((2, 4), np.uint8)
    left_half[:, :2] = 255
    made = masked_by(picture(80, 40), left_half, Preparation(20))
    assert made.image.shape == (20, 20, 3) and made.mask.shape == (20, 20)
    assert made.mask[:, :4].min() == 255 and made.mask[:, -4:].max() == 0, "the middle of the image is its border"


def test_a_box_is_in_pixels_of_the_image_and_has_to_lie_inside() -> None:
    made = boxed(picture(16, 16), (2, 3, 4, 5), Preparation(16), "x.png")
    rows, columns = np.nonzero(made.mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 7, 2, 5) and set(made.mask.flat) == {0, 255}
    for box in ((-1, 0, 3, 3), (0, 0, 17, 1), (0, 0, 0, 4), (15, 15, 2, 2)):
        with pytest.raises(DataError, match=r"x\.png has 16 x 16 pixels"):
            boxed(picture(16, 16), box, Preparation(16), "x.png")


def test_margins_are_new_continue_the_edge_and_are_never_cut_off() -> None:
    small = picture(8, 8)
    made = outpainted(small, {"left": 8}, Preparation(16))
    assert np.array_equal(made.image[4:12, 8:], np.asarray(small))
    assert (made.mask == 0).sum() == 64 and made.mask[4:12, 8:].max() == 0
    assert np.array_equal(made.image[4:12, 0], np.asarray(small)[:, 0])
    with pytest.raises(DataError, match="too large"):
        outpainted(small, {"left": 99_999}, Preparation(16))


@pytest.mark.parametrize("width", [0, 1, 3])
def test_what_is_kept_keeps_its_bytes_whatever_the_feather(width: int) -> None:
    random = np.random.default_rng(0)
    image, drawn = (random.integers(0, 255, (20, 20, 3)).astype(np.uint8) for _ in range(2))
    mask = np.zeros((20, 20), np.uint8)
    mask[5:15, 5:20] = 255
    shown = feathered(mask, width)
    made = pasted(image, drawn, shown)
    assert np.array_equal(made[mask == 0], image[mask == 0])
    inner = made[5 + width : 15 - width, 5 + width :]
    assert np.array_equal(inner, drawn[5 + width : 15 - width, 5 + width :]), "the border of the image is not an edge"
    assert shown[10, 5 : 5 + width + 1] == pytest.approx(np.arange(1, width + 2) / (width + 1))


def test_a_white_mask_shows_all_of_the_new_image_and_a_grey_one_its_share() -> None:
    image, drawn = np.full((4, 4, 3), 100, np.uint8), np.full((4, 4, 3), 200, np.uint8)
    assert np.array_equal(pasted(image, drawn, feathered(np.full((4, 4), 255, np.uint8), 2)), drawn)
    assert pasted(image, drawn, feathered(np.full((4, 4), 51, np.uint8), 0)).max() == 120


def test_masks_are_padded_and_stretched_as_their_images_are() -> None:
    left_half = np.zeros((2, 4), np.uint8)
    left_half[:, :2] = 255
    padded = masked_by(picture(40, 20), left_half, Preparation(20, (0, 255, 0), "pad"))
    assert (padded.image[:5] == (0, 255, 0)).all() and padded.mask[:5].max() == padded.mask[-5:].max() == 0
    assert padded.mask[5:15, :6].min() == 255 and padded.mask[5:15, -7:].max() == 0
    stretched = masked_by(picture(40, 20), left_half, Preparation(20, fit="stretch"))
    assert stretched.mask[:, :6].min() == 255 and stretched.mask[:, -7:].max() == 0
    all_new = masked_by(picture(40, 20), np.full((1, 1), 255, np.uint8), Preparation(20, fit="pad"))
    assert all_new.mask.min() == 255, "padding is new where all is"


def test_margins_of_stretched_images_are_those_that_were_asked_for() -> None:
    made = outpainted(picture(24, 8), {"left": 8}, Preparation(16, fit="stretch"))
    assert made.mask[:, :2].min() == 255 and made.mask[:, -10:].max() == 0, "a quarter, over the whole height"
