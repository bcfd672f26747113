"""A file that is named after another class is suspect; one that is named after its own, or after none, is not."""

import numpy as np
import pytest

from ldm.core.curation.suspicions import similar_classes, suspicious_labels
from ldm.core.images.dataset import image_source

CLASSES = ("cat", "garbage truck", "truck", "7", "ox")


def suspects(*named: tuple[str, int], classes=CLASSES) -> list[tuple[str, str, str]]:
    names, labels = zip(*named, strict=True)
    source = image_source("here", names, lambda row: b"", np.array(labels), classes)
    return [(found.name, found.own, found.other) for found in suspicious_labels(source)]


@pytest.mark.parametrize(
    ("name", "label", "other"),
    [
        ("t/truck-12.jpg", 0, "truck"),
        ("t/My Cat (3).PNG", 2, "cat"),
        ("t/my_garbage_truck_8.jpg", 0, "garbage truck"),
        ("t/cat and truck.jpg", 0, None),
        ("t/garbage truck.jpg", 1, None),
        ("t/category.jpg", 2, None),
        ("t/0007.jpg", 0, None),
        ("t/7.jpg", 0, None),
        ("t/ox.jpg", 0, None),
        ("t/IMG_1234.jpg", 0, None),
        ("t/\udcff cat.jpg", 2, "cat"),
    ],
)
def test_a_file_speaks_for_the_class_whose_name_it_holds_in_whole_words(name, label, other):
    found = suspects((name, label), ("t/a.jpg", 0), ("t/b.jpg", 2))
    assert found == ([] if other is None else [(name, CLASSES[label], other)])


def test_a_file_may_be_named_after_the_folder_of_another_class():
    files = [("train/n01440764/a.jpg", 0), ("train/n03394916/n01440764_17.JPEG", 1), ("train/n01440764/b.jpg", 0)]
    found = suspects(*files, classes=("tench", "French horn"))
    assert found == [("train/n03394916/n01440764_17.JPEG", "French horn", "tench")]


def test_one_class_has_no_other():
    assert suspects(("cat/truck.jpg", 0), classes=("cat",)) == []


def test_classes_that_are_one_by_name_are_paired():
    assert similar_classes(("Cat", "cats", "dog", "sea lion", "sea-lion")) == [
        ("Cat", "cats"),
        ("sea lion", "sea-lion"),
    ]
    assert similar_classes(("1", "10", "cat", "cow", "s", "😀", "😀😀")) == []
