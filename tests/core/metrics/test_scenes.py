"""What images of coloured digits show is measured, by questions that real scenes answer right."""

import numpy as np
import pytest

from ldm.core.conditioning.scenes import CATEGORIES, Scene, Thing
from ldm.core.images.scenes import real_scenes
from ldm.core.metrics.scenes import Seen, View, ceiling, scene_numbers, shows, table, views_of

RED_THREE = Seen(3, "red", (10, 24, 2, 14))
BLUE_SEVEN = Seen(7, "blue", (9, 23, 18, 30))
SMALL = Seen(7, "blue", (9, 16, 18, 24))


def of(*seen: Seen, ground: str = "black") -> View:
    return View(ground, seen)


@pytest.mark.parametrize(
    ("view", "text", "right"),
    [
        (of(RED_THREE), "a three", True),
        (of(RED_THREE), "a seven", False),
        (of(RED_THREE, BLUE_SEVEN), "a three", True),  # GenEval forgives what was not asked for
        (of(RED_THREE), "a red three", True),
        (of(RED_THREE), "a blue three", False),
        (of(RED_THREE), "a three and a seven", False),
        (of(RED_THREE, BLUE_SEVEN), "a seven and a three", True),
        (of(RED_THREE, BLUE_SEVEN), "a red three and a blue seven", True),
        (of(RED_THREE, BLUE_SEVEN), "a blue three and a red seven", False),
        (of(RED_THREE, BLUE_SEVEN), "a three left of a seven", True),
        (of(BLUE_SEVEN, RED_THREE), "a seven right of a three", True),
        (of(RED_THREE, BLUE_SEVEN), "a three right of a seven", False),
        (of(RED_THREE, BLUE_SEVEN), "a three above a seven", False),
        (of(BLUE_SEVEN, BLUE_SEVEN), "two sevens", True),
        (of(BLUE_SEVEN, BLUE_SEVEN, BLUE_SEVEN), "two sevens", False),  # and counts exactly
        (of(BLUE_SEVEN, BLUE_SEVEN), "two red sevens", False),
        (of(SMALL), "a small seven", True),
        (of(SMALL), "a large seven", False),
        (of(SMALL), "a seven on a black ground", True),
        (of(SMALL), "a seven on a grey ground", False),
        (of(), "a seven", False),
    ],
)
def test_a_prompt_is_met_by_what_it_names(view, text, right):
    (share,) = {value for name, value in table([text], [view]).items() if name != "overall"}
    assert share == float(right)


def test_one_object_is_not_both_of_two():
    assert not shows(of(BLUE_SEVEN), Scene((Thing(7), Thing(7))))


def test_overall_is_the_mean_of_the_categories():
    views = [of(RED_THREE), of(RED_THREE), of(RED_THREE)]
    numbers = table(["a three", "a four", "two threes", "a horse"][:3], views)
    assert numbers == {"single object": 0.5, "counting": 0.0, "overall": 0.25}
    assert table(["a horse"], views[:1]) == {}


@pytest.mark.parametrize("size", [32, 64])
def test_real_held_out_scenes_show_what_their_captions_say(size):
    images, captions = real_scenes("val", 300, size)
    numbers = table(captions, views_of(images))
    assert {*numbers} == {*CATEGORIES, "overall"}
    assert numbers["overall"] >= 0.97 and min(numbers.values()) >= 0.9


@pytest.mark.slow
def test_the_ceiling_of_every_number_is_high():
    assert ceiling()["overall"] >= 0.97 and min(ceiling().values()) >= 0.95


def test_captions_of_other_scenes_are_mostly_not_met():
    images, captions = real_scenes("val", 100)
    assert table(captions, views_of(np.roll(images, 1, axis=0)))["overall"] < 0.15


def test_empty_and_noisy_images_show_nothing():
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    images = np.concatenate([noise, np.zeros_like(noise)])
    numbers, highest = scene_numbers(["a red three and a blue seven"] * 8, images)
    assert numbers == {"colour_attribution[scenes]": 0.0, "overall[scenes]": 0.0}
    assert {*highest} == {*numbers}
