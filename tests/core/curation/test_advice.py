"""Advice is given where there is something to say, and only there."""

import numpy as np
import pytest

from ldm.core.curation.advice import advise, crop_loss, largest_size
from ldm.core.curation.survey import Broken, Look, Survey
from ldm.core.images.dataset import image_source

NAMES = ("cat", "dog")
EVEN = np.array([500, 500])


def survey_of(*looks: Look, broken: int = 0) -> Survey:
    survey = Survey(broken=[Broken("all", f"{number}.jpg", "is empty") for number in range(broken)])
    source = image_source("here", [f"{number:06d}" for number in range(max(1, len(looks)))], lambda row: b"", None)
    for index, seen in enumerate(looks):
        survey.add("all", source, index, seen)
    return survey


def photo(width: int = 64, height: int = 64, mode: str = "RGB", *traits: str) -> Look:
    return Look(width, height, "JPEG", mode, traits)


def test_there_is_nothing_but_the_size_to_say_of_good_images():
    assert set(advise(survey_of(*[photo()] * 1000), EVEN, NAMES, 64)) == {"size"}


@pytest.mark.parametrize(
    ("shorter", "size"), [([64] * 100, 64), ([55] * 100, 64), ([54] * 100, 32), ([300] * 96 + [10] * 4, 256), ([5], 16)]
)
def test_the_size_is_the_largest_that_nearly_all_images_all_but_reach(shorter, size):
    assert largest_size(np.array(shorter)) == size


def test_the_centre_crop_loses_what_is_longer_than_it_is_wide():
    assert crop_loss(np.array([[10, 10], [10, 20], [40, 10]])).tolist() == [0, 0.5, 0.75]


@pytest.mark.parametrize(
    ("matter", "looks", "counts", "broken", "says"),
    [
        ("size", [photo(32, 32)], EVEN, 0, "up to `data.image_size=32`; at 64 most are enlarged"),
        ("size", [photo(512, 512)], EVEN, 0, "up to `data.image_size=512`; 64 trains faster"),
        ("crop", [photo(640, 200)], EVEN, 0, "1,000 images the centre crop cuts off"),
        ("crop", [photo(640, 200)], EVEN, 0, "`data.image_width=208`, which is their shape at a height of 64"),
        ("crop", [photo(200, 300), photo(300, 200)], EVEN, 0, "train with data.fit=pad"),
        ("crop", [photo(2, 640)], EVEN, 0, "train with data.fit=pad"),
        ("broken", [photo()], EVEN, 5, "`data.on_error=skip`"),
        ("broken", [photo()], EVEN, 50, "more than the 1%"),
        ("balance", [photo()], np.array([120, 1200]), 0, "dog has 10 times the images of cat"),
        ("balance", [photo()], np.array([120, 1200]), 0, "`train.balance=sqrt`"),
        ("few", [photo()], np.array([20, 60]), 0, "2 classes have fewer than 100"),
        ("alpha", [photo(64, 64, "RGBA", "alpha")], EVEN, 0, "data.background=black"),
        ("animated", [photo(64, 64, "P", "animated")], EVEN, 0, "first frames"),
    ],
)
def test_each_matter_has_its_line(matter, looks, counts, broken, says):
    survey = survey_of(*looks * 1000, broken=broken)
    assert says in advise(survey, counts, NAMES, 64)[matter]


def test_grey_images_are_reported_among_others_and_where_all_are_grey():
    some = survey_of(*[photo()] * 900, *[photo(64, 64, "L")] * 60, *[photo(64, 64, "RGB", "colourless")] * 40)
    assert advise(some, EVEN, NAMES, 64)["grey"].startswith("100 of 1,000 images are grey")
    all_grey = advise(survey_of(*[photo(64, 64, "L")] * 100), EVEN, NAMES, 64)["grey"]
    assert all_grey == "all images are grey, and so will samples be, nearly; exactly with data.channels=1"


def test_one_class_is_reported_and_so_is_nothing_to_see():
    assert "train-classifier" in advise(survey_of(photo()), np.array([1000]), ("all",), 64)["classes"]
    assert set(advise(survey_of(broken=3), np.array([0, 0]), NAMES, 64)) == {"broken"}
