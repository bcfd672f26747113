"""Crops of images: where they are cut out, what a network is conditions of them, and which of them training sees."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.core.errors import DataError
from ldm.core.images.crops import Crop, chosen_crops, mirrored_conditions, random_crops
from ldm.core.images.loader import ImageLoader, Preparation
from ldm.core.images.sources import open_source

SIZE = (48, 32)  # height, width


def ramps(folder: Path, count: int = 3) -> Path:
    """Write images whose red rises with the column and whose green rises with the row, by as much a pixel."""
    (folder / "ramps").mkdir(parents=True)
    rows, columns = np.meshgrid(np.arange(192), np.arange(128), indexing="ij")
    for number in range(count):
        pixels = np.stack([columns, rows, np.full_like(rows, number)], axis=-1).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "ramps" / f"{number}.png")
    return folder


def loader(folder: Path) -> ImageLoader:
    return ImageLoader(open_source(str(folder)), Preparation(SIZE))


def test_crops_are_of_the_part_that_the_network_is_conditions(tmp_path: Path) -> None:
    """Of a ramp, the slope says how far an image was enlarged, and the mean where it was cut out."""
    images = loader(ramps(tmp_path))
    many = [random_crops(index, 5, SIZE, 0.5) for index in range(3)]
    found = images.crops(np.arange(3), many)
    assert found.shape == (3, 5, *SIZE, 3) and found.dtype == np.uint8
    wholes = images.batch(np.arange(3))
    for pixels, crops, whole in zip(found, many, wholes, strict=True):
        for crop_pixels, crop in zip(pixels, crops, strict=True):
            zoom, below, right = crop.condition(SIZE)
            green, red = crop_pixels[:, 0, 1].astype(float), crop_pixels[0, :, 0].astype(float)
            np.testing.assert_allclose(np.ptp(whole[:, 0, 1]) / np.ptp(green), 2**zoom, rtol=0.05)
            np.testing.assert_allclose(green.mean(), 95.5 + 96 * below, atol=2)
            np.testing.assert_allclose(red.mean(), 63.5 + 64 * right, atol=2)
            assert (crop_pixels[..., 2] == whole[0, 0, 2]).all(), "of its own image"


def test_crops_follow_from_the_index_and_stay_inside() -> None:
    for least in (0.5, 0.9, 1.0):
        for index in range(50):
            crops = random_crops(index, 4, SIZE, least)
            assert crops == random_crops(index, 4, SIZE, least)
            assert crops[:2] == random_crops(index, 2, SIZE, least), "more crops leave the first ones as they are"
            for crop in crops:
                sides = np.array(SIZE) / crop.enlarged
                assert (sides >= least - 0.02).all() and (sides <= 1).all()
                assert 0 <= crop.top <= crop.enlarged[0] - SIZE[0] and 0 <= crop.left <= crop.enlarged[1] - SIZE[1]
    assert random_crops(0, 1, SIZE, 0.5) != random_crops(1, 1, SIZE, 0.5)
    conditions = np.array([crop.condition(SIZE) for index in range(500) for crop in random_crops(index, 4, SIZE, 0.5)])
    np.testing.assert_allclose(conditions[:, 1:].mean(0), 0, atol=0.02)
    assert conditions[:, 0].min() < 0.05 and conditions[:, 0].max() > 0.95, "sides between the least and the whole"


def test_a_whole_image_is_conditions_by_zeros_and_a_mirrored_crop_lies_on_the_other_side() -> None:
    assert not Crop(SIZE, 0, 0).condition(SIZE).any()
    crop = Crop((96, 64), 0, 32)
    np.testing.assert_allclose(crop.condition(SIZE), [1, -0.5, 0.5])
    opposite = Crop((96, 64), 0, 64 - SIZE[1] - 32)
    conditions = np.stack([crop.condition(SIZE)] * 2)
    mirrored = mirrored_conditions(conditions, np.array([False, True]))
    np.testing.assert_array_equal(mirrored, [crop.condition(SIZE), opposite.condition(SIZE)])


def test_a_share_of_positions_sees_each_crop_as_often() -> None:
    positions = np.arange(20_000)
    chosen = chosen_crops(positions, 3, 4, 0.6)
    shares = np.bincount(chosen, minlength=5) / len(positions)
    np.testing.assert_allclose(shares, [0.4, 0.15, 0.15, 0.15, 0.15], atol=0.01)
    np.testing.assert_array_equal(chosen[500:600], chosen_crops(positions[500:600], 3, 4, 0.6))
    assert not chosen_crops(positions, 3, 4, 0.0).any()


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    images = ImageLoader(open_source(str(ramps(tmp_path))), Preparation(SIZE, cache_bytes=0))
    (tmp_path / "ramps/1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(DataError, match=r"ramps/1\.png"):
        images.crops(np.arange(3), [random_crops(index, 1, SIZE, 0.5) for index in range(3)])
