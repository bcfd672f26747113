"""Captions are read with the images that they belong to, whatever they lie in; what is wrong is named."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.core.errors import ConfigError, DataError
from ldm.core.images.captions import LONGEST, has_captions, with_captions
from ldm.core.images.sets import image_sources
from ldm.core.images.settings import Data
from ldm.core.images.sources import open_source


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 10, 20)).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root: Path, captions: dict[str, str | bytes | None]) -> Path:
    """Write an image of each name, and what stands beside it."""
    for shade, (name, text) in enumerate(captions.items()):
        file = root / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(shade))
        if text is not None:
            file.with_suffix(".txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def read(place: Path, **settings: object) -> dict[str, tuple[str, ...]]:
    data = Data(source=str(place), **settings)
    (source,) = with_captions([open_source(str(place))], data)
    assert source.captions is not None
    return dict(zip(source.names, source.captions, strict=True))


def test_each_line_beside_an_image_is_a_caption_of_it(tmp_path):
    found = read(folder(tmp_path, {"b": " two \r\n\n lines\r\n", "a": "﻿one", "c": "a cafe\u0301"}))
    assert found == {"a.png": ("one",), "b.png": ("two", "lines"), "c.png": ("a caf\u00e9",)}


def test_files_with_captions_are_not_called_ignored(tmp_path):
    place = folder(tmp_path, {"a": "x", "b": "y"})
    (place / "LICENSE.txt").write_text("free")
    assert open_source(str(place)).ignored == ("LICENSE.txt",)


def test_captions_follow_their_images_into_parts_of_the_data(tmp_path):
    place = folder(tmp_path, {f"{i:03d}": f"number {i}" for i in range(40)})
    sources = image_sources(Data(source=str(place), val_fraction=0.2))
    assert sources.captioned and sources.train.captions is None
    sources = sources.with_captions()
    for source in (sources.train, sources.val, sources.train.subset([3, 1])):
        assert source.captions == [(f"number {int(name[:3])}",) for name in source.names]


def test_captions_are_an_input_that_differs_when_one_changes_and_the_images_do_not(tmp_path):
    place = folder(tmp_path, {f"{i}": f"number {i}" for i in range(10)})
    before = image_sources(Data(source=str(place))).with_captions()
    (place / "4.txt").write_text("number four")
    after = image_sources(Data(source=str(place))).with_captions()
    assert before.as_input == after.as_input
    assert before.caption_input["captions"] != after.caption_input["captions"]
    assert image_sources(Data(source=str(place))).caption_input == {}


def test_class_names_make_captions(tmp_path):
    place = folder(tmp_path, {"cat/1": None, "dog/2": None})
    assert read(place, caption_template="a photo of a {class}") == {
        "cat/1.png": ("a photo of a cat",),
        "dog/2.png": ("a photo of a dog",),
    }
    with pytest.raises(ConfigError, match="leave out one"):
        read(place, caption_template="a {class}", captions="none")
    with pytest.raises(ValueError, match="caption_template"):
        Data(caption_template="a photo")


def test_images_without_any_caption_have_none(tmp_path):
    place = folder(tmp_path, {"a": None, "b": None})
    source = open_source(str(place))
    assert not has_captions(source, Data())
    with pytest.raises(DataError, match="has no captions"):
        with_captions([source], Data())
    assert not has_captions(open_source(str(folder(tmp_path, {"a": "x", "b": "y"}))), Data(captions="none"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "b.png"),
        ("  \n\n", "b.txt holds no caption"),
        (b"caf\xe9", "b.txt is not UTF-8 text: byte 0xe9 at 3"),
        ("a\0b", "b.txt: a caption is no text"),
        ("x" * (LONGEST + 1), "b.txt: a caption has 10,001 letters"),
        ("line\n" * 256, "b.txt holds 256 captions"),
    ],
)
def test_a_wrong_caption_is_named_with_a_remedy(tmp_path, text, named):
    place = folder(tmp_path, {"a": "fine", "b": text})
    with pytest.raises(DataError, match=named) as error:
        read(place)
    assert error.value.remedy and "\n" not in str(error.value)


def test_captions_of_a_split_do_not_depend_on_the_order_of_reading(tmp_path):
    place = folder(tmp_path, {f"{i}": f"{i}" for i in np.random.default_rng(0).permutation(30)})
    assert read(place) == {f"{i}.png": (f"{i}",) for i in range(30)}
