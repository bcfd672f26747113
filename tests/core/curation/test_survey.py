"""What is said of images is what they are: sizes, modes, traits, and which cannot be decoded."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.core.curation.survey import Survey, look
from ldm.core.errors import DataError
from ldm.core.images.dataset import image_source
from ldm.core.images.reading import read_each
from ldm.core.images.sources import open_parts
from tests.support.image_kinds import kinds

KINDS = kinds()
TRAITS = {
    "16-bit": {"grey-16.png", "grey-16.tiff", "rgb-16.png"},
    "alpha": {"rgba.png", "rgba.webp", "la.png", "palette-alpha.png"},
    "turned": {f"turned-{number}.png" for number in range(2, 9)},
    "animated": {"animated.gif", "animated.webp"},
    "misnamed": {"right-bytes-wrong-name.jpg"},
    "colourless": {"animated.webp", "dot.png", "strip.png", "rgb-16.png"},
}


def surveyed(source, part: str = "all") -> Survey:
    survey = Survey()
    for index, seen in enumerate(read_each(source, lambda i, content: look(source, i, content))):
        survey.add(part, source, index, seen)
    return survey


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kinds")
    for name, (data, _) in KINDS.items():
        (root / name).write_bytes(data)
    return root


def test_each_kind_of_file_has_the_size_that_training_sees_and_its_traits(folder):
    source = open_parts(str(folder))["all"]
    for index, name in enumerate(source.names):
        expected = KINDS[name][1]
        if expected is None:
            with pytest.raises(DataError, match=name):
                look(source, index, source.read(index))
            continue
        seen = look(source, index, source.read(index))
        assert (seen.height, seen.width) == expected.shape[:2], name
        assert set(seen.traits) == {trait for trait, names in TRAITS.items() if name in names}, name


def test_counts_are_of_what_was_seen_and_every_broken_file_is_named(folder):
    source = open_parts(str(folder))["all"]
    survey = surveyed(source)
    broken = {name for name, (_, pixels) in KINDS.items() if pixels is None}
    assert {image.name for image in survey.broken} == broken and len(survey) == len(KINDS) - len(broken)
    assert all(image.reason.startswith(image.name) for image in survey.broken)
    assert survey.class_counts["all"].tolist() == [len(survey)]
    assert sum(survey.formats.values()) == sum(survey.modes.values()) == sum(survey.shapes.values()) == len(survey)
    assert survey.formats["GIF"] == 2 and survey.modes["CMYK"] == 1 and survey.modes["RGB;16"] == 1
    assert survey.modes["I;16"] == 2 and survey.shapes["wide"] == 1 and survey.shapes["portrait"] == 4
    assert dict(survey.traits) == {t: len(names) for t, names in TRAITS.items()}
    described = survey.described()
    assert described["sizes"]["width"] == {"min": 1, "median": 30.0, "max": 10000}
    assert described["sizes"]["shorter"]["min"] == 1 and described["traits"]["turned"] == 7


def test_a_jpeg_that_holds_a_second_picture_is_a_jpeg_of_the_first():
    red, blue = (Image.new("RGB", size, colour) for size, colour in (((40, 30), "red"), ((20, 10), "blue")))
    buffer = io.BytesIO()
    red.save(buffer, "MPO", save_all=True, append_images=[blue])
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        assert image.format == "MPO" and image.n_frames == 2, "as Pillow opens it"
    source = image_source("here", ["a.jpg"], lambda row: buffer.getvalue(), None)
    seen = look(source, 0, source.read(0))
    assert (seen.format, seen.width, seen.height, seen.traits) == ("JPEG", 40, 30, ())
    assert np.abs(source.image(0).astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3)])
def test_arrays_are_looked_at_too(shape):
    pixels = np.zeros((3, *shape), dtype=np.uint8)
    source = image_source("here", ["a", "b", "c"], lambda row: pixels[row], np.array([0, 1, 1]), ["x", "y"])
    survey = surveyed(source)
    assert dict(survey.formats) == {"array": 3} and survey.sizes.tolist() == [[6, 8]] * 3
    assert dict(survey.modes) == ({"RGB": 3} if len(shape) == 3 else {"L": 3})
    assert survey.class_counts["all"].tolist() == [1, 2]


def test_the_shape_of_an_image_is_reported_by_its_sides():
    for (width, height), shape in {
        (10, 21): "tall",
        (10, 20): "tall",
        (10, 19): "portrait",
        (10, 12): "portrait",
        (10, 11): "square",
        (11, 10): "square",
        (12, 10): "landscape",
        (20, 10): "landscape",
        (21, 10): "wide",
    }.items():
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        survey = surveyed(image_source("here", ["a"], lambda row, of=pixels: of, None))
        assert [name for name, count in survey.shapes.items() if count] == [shape], (width, height)
