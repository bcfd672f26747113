"""The split depends on what is in the files and on nothing else."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from ldm.core.errors import ConfigError
from ldm.core.images.sources import open_source, open_splits
from ldm.core.images.splits import split_by_content


def digests_of(numbers):
    return [hashlib.sha256(str(number).encode()).digest() for number in numbers]


def test_the_fraction_is_met_and_every_sample_is_on_one_side():
    labels = np.arange(4000) % 10
    train, val = split_by_content(digests_of(range(4000)), labels, 0.05)
    assert sorted([*train, *val]) == list(range(4000))
    assert abs(len(val) - 200) < 4 * np.sqrt(4000 * 0.05 * 0.95)


def test_the_side_depends_on_neither_order_nor_other_samples():
    order = np.random.default_rng(0).permutation(4000)
    _, val = split_by_content(digests_of(range(4000)), np.zeros(4000, int), 0.05)
    _, shuffled = split_by_content(digests_of(order), np.zeros(4000, int), 0.05)
    assert set(order[shuffled]) == set(val)
    _, fewer = split_by_content(digests_of(range(1000)), np.zeros(1000, int), 0.05)
    assert set(fewer) == {index for index in val if index < 1000}


def test_copies_stay_on_one_side():
    numbers = np.arange(900) % 300
    train, val = split_by_content(digests_of(numbers), numbers % 3, 0.2)
    assert len(val) % 3 == 0 and not set(numbers[train]) & set(numbers[val])


def test_small_sets_keep_every_class_in_training_and_something_in_validation():
    for count in range(3, 40):
        labels = np.arange(count) % 2
        train, val = split_by_content(digests_of(range(count)), labels, 0.3)
        assert set(labels[train]) == {0, 1} and len(val) >= 1
    train, val = split_by_content(digests_of([1, 1, 1]), np.zeros(3, int), 0.5)
    assert len(train) == 3 and len(val) == 0


def test_open_splits_splits_files_by_content_whatever_they_are_called(tmp_path):
    rng = np.random.default_rng(3)
    for label in ("cat", "dog"):
        (tmp_path / "a" / label).mkdir(parents=True)
        (tmp_path / "b" / label).mkdir(parents=True)
        for number in range(30):
            picture = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
            picture.save(tmp_path / "a" / label / f"{number}.png")
            picture.save(tmp_path / "b" / label / f"{99 - number}x.png")
    sides = []
    for folder in ("a", "b"):
        train, val = open_splits(str(tmp_path / folder), val_fraction=0.2)
        assert len(train) + len(val) == 60 and train.class_names == val.class_names == ("cat", "dog")
        assert not set(train.content_hashes()) & set(val.content_hashes())
        sides.append(set(val.content_hashes()))
    assert sides[0] == sides[1] and 3 <= len(sides[0]) <= 25


def test_given_validation_images_are_taken_whole(tmp_path):
    for number in range(6):
        part = "a" if number < 4 else "b"
        (tmp_path / part / "cat").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / part / "cat" / f"{number}.png")
    train, val = open_splits(str(tmp_path / "a"), str(tmp_path / "b"))
    assert len(train) == 4 and val.names == ["cat/4.png", "cat/5.png"]
    assert len(open_source(str(tmp_path / "a"))) == 4


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_a_fraction_that_empties_a_part_is_refused(tmp_path, fraction):
    Image.new("RGB", (2, 2)).save(tmp_path / "1.png")
    with pytest.raises(ConfigError, match="validation fraction"):
        open_splits(str(tmp_path), val_fraction=fraction)
