"""Hash and thumbnail know an altered copy from another picture."""

import io

import numpy as np
import pytest
from PIL import Image

from ldm.core.curation import perceptual
from tests.support.pictured import EDITS, bright, landscape, scaled

PICTURES = [landscape(number) for number in range(40)]


def small(*pictures: np.ndarray) -> np.ndarray:
    return np.stack([perceptual.shrunk(picture) for picture in pictures])


def bits_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([int(x).bit_count() for x in a ^ b])


def flat(*colour: int) -> np.ndarray:
    return np.full((16, 16, 3), colour, dtype=np.uint8)[None]


def test_a_wave_of_one_frequency_sets_the_bit_of_that_frequency_and_no_other():
    places = np.arange(perceptual.SIDE)
    seen = set()
    for row, column in [(0, 1), (1, 0), (1, 1), (2, 3), (5, 0), (0, 8), (7, 2)]:
        wave = np.outer(*(np.cos(np.pi * (2 * places + 1) * k / (2 * perceptual.SIDE)) for k in (row, column)))
        image = np.repeat((128 + 100 * wave).round().astype(np.uint8)[:, :, None], 3, axis=2)[None]
        (value,) = perceptual.hashes(image)
        assert int(value).bit_count() == 1
        seen.add(int(value))
    assert len(seen) == 7


def test_a_flat_image_has_no_bits_whatever_its_colour_and_noise():
    noise = np.random.default_rng(0).integers(-1, 2, (9, 32, 32, 3))
    levels = np.linspace(20, 235, 9).astype(int)[:, None, None, None]
    assert (perceptual.hashes((levels + noise).astype(np.uint8)) == 0).all()


def test_the_hash_of_the_mirror_image_differs_in_half_of_the_frequencies_and_twice_mirrored_is_the_same():
    images = small(*PICTURES)
    mirrored = perceptual.mirrored(images)
    assert (perceptual.hashes(perceptual.mirrored(mirrored)) == perceptual.hashes(images)).all()
    differing = bits_between(perceptual.hashes(mirrored), perceptual.hashes(images))
    assert differing.min() >= 15 and differing.max() <= 32


@pytest.mark.parametrize("edit", EDITS)
def test_altered_copies_are_near_by_hash_and_by_thumbnail(edit):
    copies = [np.asarray(Image.open(io.BytesIO(EDITS[edit](picture)))) for picture in PICTURES]
    images, altered = small(*PICTURES), small(*copies)
    assert bits_between(perceptual.hashes(images), perceptual.hashes(altered)).max() <= 10
    assert perceptual.likeness(perceptual.thumbnails(images), perceptual.thumbnails(altered)).min() > 0.95


def test_other_pictures_are_near_by_neither():
    images = small(*PICTURES)
    hashes, thumbnails = perceptual.hashes(images), perceptual.thumbnails(images)
    i, j = np.triu_indices(len(PICTURES), 1)
    assert bits_between(hashes[i], hashes[j]).min() > 12
    assert perceptual.likeness(thumbnails[i], thumbnails[j]).max() < 0.8


def test_likeness_is_one_for_brightness_and_contrast_and_symmetric():
    images = perceptual.thumbnails(small(*PICTURES))
    altered = perceptual.thumbnails(small(*map(bright, PICTURES)))
    other = perceptual.thumbnails(small(*PICTURES[::-1]))
    assert np.allclose(perceptual.likeness(images, images), 1)
    assert (perceptual.likeness(images, altered) > 0.99).all()
    assert np.allclose(perceptual.likeness(images, other), perceptual.likeness(other, images))


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        (flat(200, 0, 0), flat(0, 0, 200), False),
        (flat(90, 90, 90), flat(160, 160, 160), False),
        (flat(90, 90, 90), flat(92, 91, 90), True),
        (flat(128, 128, 128), perceptual.thumbnails(small(PICTURES[0])), False),
    ],
)
def test_flat_images_are_alike_if_their_colours_are(first, second, alike):
    assert bool(perceptual.likeness(first, second)[0] > 0.95) is alike


def test_images_of_any_shape_are_brought_to_one_size():
    for shape in ((1, 1, 3), (1, 5000, 3), (300, 20, 3)):
        assert perceptual.shrunk(np.zeros(shape, dtype=np.uint8)).shape == (32, 32, 3)
    assert perceptual.thumbnails(small(scaled(PICTURES[0], 0.1))).shape == (1, 16, 16, 3)
