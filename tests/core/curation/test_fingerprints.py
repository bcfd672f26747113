"""Hash and thumbnail know an altered copy from another picture."""

import io

import numpy as np
import pytest
from PIL import Image

from ldm.core.curation import fingerprints
from tests.support.pictured import EDITS, bright, landscape, scaled

PICTURES = [landscape(number) for number in range(40)]


def small(*pictures: np.ndarray) -> np.ndarray:
    return np.stack([fingerprints.shrunk(Image.fromarray(picture)) for picture in pictures])


def bits_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([int(x).bit_count() for x in a ^ b])


def flat(*colour: int) -> np.ndarray:
    return np.full((16, 16, 3), colour, dtype=np.uint8)[None]


def test_a_wave_of_one_frequency_sets_the_bit_of_that_frequency_and_no_other():
    places = np.arange(fingerprints.SIDE)
    seen = set()
    for row, column in [(0, 1), (1, 0), (1, 1), (2, 3), (5, 0), (0, 8), (7, 2)]:
        wave = np.outer(*(np.cos(np.pi * (2 * places + 1) * k / (2 * fingerprints.SIDE)) for k in (row, column)))
        image = np.repeat((128 + 100 * wave).round().astype(np.uint8)[:, :, None], 3, axis=2)[None]
        (value,) = fingerprints.hashes(image)
        assert int(value).bit_count() == 1
        seen.add(int(value))
    assert len(seen) == 7


def test_a_flat_image_has_no_bits_whatever_its_colour_and_noise():
    noise = np.random.default_rng(0).integers(-1, 2, (9, 32, 32, 3))
    levels = np.linspace(20, 235, 9).astype(int)[:, None, None, None]
    assert (fingerprints.hashes((levels + noise).astype(np.uint8)) == 0).all()


def test_the_hash_of_the_mirror_image_differs_in_half_of_the_frequencies_and_twice_mirrored_is_the_same():
    images = small(*PICTURES)
    mirrored = fingerprints.mirrored(images)
    assert (fingerprints.hashes(fingerprints.mirrored(mirrored)) == fingerprints.hashes(images)).all()
    differing = bits_between(fingerprints.hashes(mirrored), fingerprints.hashes(images))
    assert differing.min() >= 15 and differing.max() <= 32


@pytest.mark.parametrize("edit", EDITS)
def test_altered_copies_are_near_by_hash_and_by_thumbnail(edit):
    copies = [np.asarray(Image.open(io.BytesIO(EDITS[edit](picture)))) for picture in PICTURES]
    images, altered = small(*PICTURES), small(*copies)
    assert bits_between(fingerprints.hashes(images), fingerprints.hashes(altered)).max() <= 10
    assert fingerprints.likeness(fingerprints.thumbnails(images), fingerprints.thumbnails(altered)).min() > 0.95


def test_other_pictures_are_near_by_neither():
    images = small(*PICTURES)
    hashes, thumbnails = fingerprints.hashes(images), fingerprints.thumbnails(images)
    i, j = np.triu_indices(len(PICTURES), 1)
    assert bits_between(hashes[i], hashes[j]).min() > 12
    assert fingerprints.likeness(thumbnails[i], thumbnails[j]).max() < 0.8


def test_likeness_is_one_for_brightness_and_contrast_and_symmetric():
    images = fingerprints.thumbnails(small(*PICTURES))
    altered = fingerprints.thumbnails(small(*map(bright, PICTURES)))
    other = fingerprints.thumbnails(small(*PICTURES[::-1]))
    assert np.allclose(fingerprints.likeness(images, images), 1)
    assert (fingerprints.likeness(images, altered) > 0.99).all()
    assert np.allclose(fingerprints.likeness(images, other), fingerprints.likeness(other, images))


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        (flat(200, 0, 0), flat(0, 0, 200), False),
        (flat(90, 90, 90), flat(160, 160, 160), False),
        (flat(90, 90, 90), flat(92, 91, 90), True),
        (flat(128, 128, 128), fingerprints.thumbnails(small(PICTURES[0])), False),
    ],
)
def test_flat_images_are_alike_if_their_colours_are(first, second, alike):
    assert bool(fingerprints.likeness(first, second)[0] > 0.95) is alike


def test_images_of_any_shape_are_brought_to_one_size():
    for shape in ((1, 1, 3), (1, 5000, 3), (300, 20, 3)):
        assert fingerprints.shrunk(Image.fromarray(np.zeros(shape, dtype=np.uint8))).shape == (32, 32, 3)
    assert fingerprints.thumbnails(small(scaled(PICTURES[0], 0.1))).shape == (1, 16, 16, 3)
