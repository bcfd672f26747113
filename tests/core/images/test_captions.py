"""Captions are read with the images that they belong to, whatever they lie in; what is wrong is named."""

import csv
import io
import json
import tarfile
import zipfile
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
        ("a\0b", "b.txt: a caption is not text"),
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


IMAGES = {"a": "a cat", "b": "a dog\na hound", "c": "an eel"}
WANTED = {"a.png": ("a cat",), "b.png": ("a dog", "a hound"), "c.png": ("an eel",)}


def pictures(root: Path, *names: str) -> Path:
    return folder(root, dict.fromkeys(names or IMAGES))


def rows() -> list[dict[str, object]]:
    return [{"file_name": name, "text": texts[0] if len(texts) == 1 else [*texts]} for name, texts in WANTED.items()]


def sentences(split: bool = True) -> list[dict[str, object]]:
    parts = dict(zip(WANTED, ("restval", "train", "test"), strict=True)) if split else {}
    return [
        {"filename": name, "sentences": [{"raw": text} for text in texts], **({"split": parts[name]} if split else {})}
        for name, texts in WANTED.items()
    ]


def coco() -> dict[str, object]:
    notes = [{"image_id": i * 7, "caption": text} for i, texts in enumerate(WANTED.values()) for text in texts]
    return {"images": [{"id": i * 7, "file_name": name} for i, name in enumerate(WANTED)], "annotations": notes}


def as_csv() -> str:
    text = io.StringIO()
    csv.writer(text).writerows([("image", "caption"), *((n, t) for n, texts in WANTED.items() for t in texts)])
    return text.getvalue()


TABLES = {
    "metadata.jsonl": "\n".join(map(json.dumps, rows())),
    "captions.jsonl": "".join(json.dumps({"image": n, "captions": t}) + "\r\n\r\n" for n, t in WANTED.items()),
    "metadata.csv": as_csv(),
    "captions.txt": as_csv(),
    "Flickr8k.token.txt": "".join(f"{n}#{i}\t{t}\n" for n, each in WANTED.items() for i, t in enumerate(each)),
    "annotations/captions_val2017.json": json.dumps(coco()),
    "dataset_mine.json": json.dumps({"images": sentences(split=False), "dataset": "mine"}),
    "captions.json": json.dumps({name: [*texts] for name, texts in WANTED.items()}),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("place", ["", "images/"])
def test_tables_of_captions_are_read(tmp_path, name, place):
    root = pictures(tmp_path / "data" / place, *IMAGES).parents[1 if place else 0] / ("" if place else "data")
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(TABLES[name])
    assert {image.rpartition("/")[2]: texts for image, texts in read(root).items()} == WANTED
    source = open_source(str(root))
    assert not source.labelled and source.ignored == ()
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for member in sorted(path for path in root.rglob("*") if path.is_file()):
            file.write(member, member.relative_to(root).as_posix())
    assert read(archive) == read(root)


@pytest.mark.parametrize("name", [name for name in TABLES if "dataset" not in name])
def test_a_file_of_captions_may_lie_elsewhere_and_be_a_second_set(tmp_path, name):
    root = pictures(tmp_path / "data")
    file = tmp_path / Path(name).name
    file.write_text(TABLES[name])
    assert read(root, captions=str(file)) == WANTED
    data = Data(source=str(root), captions=str(file), synthetic_captions=file)
    (source,) = with_captions([open_source(str(root))], data)
    assert source.synthetic == source.captions


def test_a_second_set_may_leave_images_out(tmp_path):
    root = folder(tmp_path / "data", IMAGES)
    (tmp_path / "more.jsonl").write_text(json.dumps({"file_name": "b.png", "text": "a brown dog"}))
    (source,) = with_captions(
        [open_source(str(root))], Data(source=str(root), synthetic_captions=tmp_path / "more.jsonl")
    )
    assert source.synthetic == [(), ("a brown dog",), ()]


@pytest.mark.parametrize("name", ["more.jsonl", "more.json"])
def test_rows_behind_one_without_a_caption_are_read(tmp_path, name):
    root = folder(tmp_path / "data", IMAGES)
    rows = [{"file_name": "a.png", "text": "a cat"}, {"file_name": "b.png"}, {"file_name": "c.png", "text": "an eel"}]
    (tmp_path / name).write_text(json.dumps(rows) if name.endswith("json") else "\n".join(map(json.dumps, rows)))
    data = Data(source=str(root), synthetic_captions=tmp_path / name)
    (source,) = with_captions([open_source(str(root))], data)
    assert source.synthetic == [("a cat",), (), ("an eel",)]
    with pytest.raises(DataError, match=r"has no captions of b\.png, while"):
        read(root, captions=str(tmp_path / name))


def test_splits_of_karpathy_are_parts_and_restval_is_trained_on(tmp_path):
    root = pictures(tmp_path / "images").parent
    (root / "dataset_coco.json").write_text(json.dumps({"images": sentences()}))
    sources = image_sources(Data(source=str(root))).with_captions()
    assert sources.train.captions == [("a cat",), ("a dog", "a hound")] and sources.val.captions == [("an eel",)]
    assert not sources.train.labelled


def test_names_of_flickr_with_a_number_behind_them_are_found(tmp_path):
    root = pictures(tmp_path)
    (root / "results_20130124.token").write_text(TABLES["Flickr8k.token.txt"].replace("c.png#", "c.png.1#"))
    assert read(root) == WANTED


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("ending", ["txt", "json"])
def test_webdataset_tars_have_captions_without_labels(tmp_path, count, ending):
    for number in range(count):
        with tarfile.open(tmp_path / f"{number:03d}.tar", "w") as archive:
            for name, texts in {f"{number}{name}": texts for name, texts in WANTED.items()}.items():
                text = "\n".join(texts) if ending == "txt" else json.dumps({"caption": [*texts], "width": 8})
                for member, content in ((name, picture(number)), (name.replace("png", ending), text.encode())):
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    found = read(tmp_path)
    assert {name.rpartition("/")[2]: texts for name, texts in found.items()} == {
        f"{number}{name}": texts for number in range(count) for name, texts in WANTED.items()
    }
    source = open_source(str(tmp_path))
    assert not source.labelled and source.ignored == ()


def test_labelled_tars_have_captions_too(tmp_path):
    for number in range(2):
        with tarfile.open(tmp_path / f"{number:03d}.tar", "w") as archive:
            for member, content in (
                (f"{number}.png", picture(number)),
                (f"{number}.cls", b"%d" % number),
                (f"{number}.txt", b"x"),
            ):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    source = open_source(str(tmp_path))
    assert source.labelled and source.labels.tolist() == [0, 1]
    assert [*read(tmp_path).values()] == [("x",), ("x",)]


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "text": "x"}\n{', "metadata.jsonl line 2 is not valid JSON"),
        ("metadata.jsonl", '{"text": "x"}', "metadata.jsonl line 1 names no image"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": 3}', "a caption is not text: '3'"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": ""}', "line 1 holds no caption"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": "\\ud800"}', "a caption is not text"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": "x"}', "has no captions of b.png, c.png"),
        ("metadata.jsonl", '{"file_name": "other.png", "text": "x"}', "name images as they are: a.png, b.png"),
        ("captions.json", "[", "captions.json is not valid JSON"),
        (
            "captions.json",
            json.dumps(coco() | {"annotations": [{"caption": "x"}]}),
            "names no",
        ),
        ("Flickr8k.token.txt", "a.png#0\tx\nno tab", "line 2 has no tab"),
        ("captions.csv", 'file_name,text\na.png,"open', "is not valid CSV"),
    ],
)
def test_a_wrong_table_is_named_with_its_line(tmp_path, name, text, named):
    root = pictures(tmp_path)
    (root / name).write_text(text)
    with pytest.raises(DataError) as error:
        read(root)
    assert named in str(error.value) and error.value.remedy and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "bbox": [1, 2]}'),
        (
            "captions.json",
            '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "bbox": [1]}]}',
        ),
        ("captions.txt", "What these captions are:"),
        ("a.json", '{"width": 3}'),
    ],
)
def test_files_of_other_things_are_not_captions(tmp_path, name, text):
    root = pictures(tmp_path)
    (root / name).write_text(text)
    assert not has_captions(open_source(str(root)), Data())


def test_folders_of_classes_keep_their_classes_beside_a_table(tmp_path):
    root = folder(tmp_path, {"cat/1": None, "dog/2": None})
    (root / "metadata.jsonl").write_text('{"file_name": "cat/1.png", "text": "x"}\n{"file_name": "2.png", "text": "y"}')
    assert open_source(str(root)).class_names == ("cat", "dog")
    assert read(root) == {"cat/1.png": ("x",), "dog/2.png": ("y",)}


def test_lists_named_after_parts_divide_the_images(tmp_path):
    root = pictures(tmp_path / "images").parent
    for part, name in (("train", "a"), ("dev", "b"), ("test", "c")):
        record = {"file_name": f"images/{name}.png", "captions": [part]}
        (root / f"{part}.jsonl").write_text(json.dumps(record))
    sources = image_sources(Data(source=str(root))).with_captions()
    assert sources.train.captions == [("train",)] and sources.val.captions == [("dev",)]


def test_names_in_a_table_are_below_its_folder(tmp_path):
    root = folder(tmp_path, {"cat/1": None, "dog/1": None})
    for name in ("cat", "dog"):
        (root / name / "metadata.jsonl").write_text(json.dumps({"file_name": "1.png", "text": f"a {name}"}))
    assert read(root) == {"cat/1.png": ("a cat",), "dog/1.png": ("a dog",)}
