"""What a folder, a file or an array means: the same in every layout, in any usual spelling, and never by guessing."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.core.errors import ConfigError, DataError
from ldm.core.images import decode as decoding
from ldm.core.images.arrays import as_bytes
from ldm.core.images.decode import decode
from ldm.core.images.loader import ImageLoader, Preparation
from ldm.core.images.parts import part_named
from ldm.core.images.rows import in_memory
from ldm.core.images.sets import image_sources
from ldm.core.images.settings import Data
from ldm.core.images.sources import open_parts, open_source, open_splits
from ldm.core.progress import Silent


def photos(root: Path, *folders: str, count: int = 3) -> Path:
    """Write `count` different images into each folder below a root."""
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.random.default_rng([number, i]).integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i}.png")
    return root


def zipped(root: Path) -> str:
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root))
    return str(path)


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.said.append(f"warning: {message}")


@pytest.mark.parametrize("layout", [str, zipped])
def test_a_folder_one_level_too_high_has_the_classes_of_the_folder_inside_in_a_folder_and_a_zip(tmp_path, layout):
    location = layout(photos(tmp_path / "data", "photos/cat", "photos/dog"))
    heard = Heard()
    sources = image_sources(Data(source=location, image_size=11))
    sources.read(heard)
    assert sources.train.class_names == ("cat", "dog")
    assert "2 classes: cat, dog (the folders in photos/)" in heard.said[0]


def test_one_class_with_folders_inside_is_trained_on_with_a_question(tmp_path):
    root = photos(tmp_path / "data", "photos/cat", "photos/dog", "photos")
    heard = Heard()
    image_sources(Data(source=str(root), image_size=11)).read(heard)
    assert "one class: photos" in heard.said[0]
    assert heard.said[1] == "warning: one class, photos; did you mean photos/ (2 folders inside)?"


def test_an_empty_class_folder_is_named_though_the_other_holds_only_folders(tmp_path):
    root = photos(tmp_path / "data", "cat/2019", "cat/2020")
    (root / "dog").mkdir()
    with pytest.raises(DataError, match="class folder without images: dog"):
        open_splits(str(root))


@pytest.mark.parametrize("layout", [str, zipped])
@pytest.mark.parametrize(
    ("train", "other", "part"),
    [
        ("Train", "Val", "val"),
        ("Training", "Testing", "test"),
        ("seg_train", "seg_test", "test"),
        ("TRAIN", "VALIDATION", "val"),
        ("train2017", "val2017", "val"),
        ("images-train", "images-dev", "val"),
        ("TrainSet", "TestSet", "test"),
    ],
)
def test_parts_are_recognised_in_any_usual_spelling(tmp_path, layout, train, other, part):
    root = photos(tmp_path / "data", f"{train}/cat", f"{train}/dog", f"{other}/cat", f"{other}/dog")
    parts = open_parts(layout(root))
    assert {name: source.class_names for name, source in parts.items()} == dict.fromkeys(
        ("train", part), ("cat", "dog")
    )


def test_classes_whose_names_hold_a_parts_name_stay_classes(tmp_path):
    for number, names in enumerate([("train_station", "test_tube"), ("train", "bus"), ("blood-test", "pcr-test")]):
        source = open_source(str(photos(tmp_path / str(number), *names)))
        assert source.class_names == tuple(sorted(names))
    assert part_named("contest") is None and part_named("trainer") is None and part_named("test-train") is None


@pytest.mark.parametrize("layout", [str, zipped])
def test_parts_beside_another_folder_are_a_question_and_no_classes(tmp_path, layout):
    location = layout(photos(tmp_path / "data", "train/cat", "val/cat", "unlabelled"))
    with pytest.raises(DataError, match=r"folders for train and val beside unlabelled.*name one of them"):
        open_source(location)


@pytest.mark.parametrize("layout", [str, zipped])
@pytest.mark.parametrize("junk", ["@eaDir", "__pycache__", "lost+found", "$RECYCLE.BIN", "System Volume Information"])
def test_junk_is_left_aside_by_its_name(tmp_path, layout, junk):
    root = photos(tmp_path / "data", "cat", "dog")
    before = open_source(layout(root)).names
    photos(root, junk)
    assert open_source(layout(root)).names == before


def test_a_folder_of_junk_that_may_not_be_read_does_not_stop_training(tmp_path):
    root = photos(tmp_path / "data", "cat", "dog")
    (root / "lost+found").symlink_to(root / "nowhere")
    assert open_source(str(root)).class_names == ("cat", "dog")


@pytest.mark.parametrize("layout", [str, zipped])
def test_runs_are_never_data(tmp_path, layout):
    root = photos(tmp_path / "data", "cat", "dog")
    before = open_source(layout(root)).names
    stage = photos(root, "runs/default/vqvae/reconstructions") / "runs/default/vqvae"
    (stage / "identity.json").write_text(json.dumps({"schema": 1, "kind": "vqvae", "config": {}, "inputs": {}}))
    (stage / ".lock").touch()
    (root / "runs/default/dit").mkdir()
    (root / "runs/default/dit/.lock").touch()  # claimed a moment ago, and empty
    (root / "runs/default/report.html").touch()
    source = open_source(layout(root))
    assert (source.names, source.ignored, source.empty_folders) == (before, (), ())


def test_a_stages_own_directory_is_refused_as_training_data(tmp_path):
    root = photos(tmp_path / "samples", "cat")
    (root / "identity.json").write_text(json.dumps({"schema": 1, "kind": "samples", "config": {}, "inputs": {}}))
    with pytest.raises(DataError, match="a directory of a run, which is not read as data"):
        image_sources(Data(source=str(root)))


def test_a_users_own_lock_and_identity_files_hide_no_images(tmp_path):
    root = photos(tmp_path / "faces", "ann", "bob")
    (root / "ann" / ".lock").touch()
    (root / "bob" / "identity.json").write_text('{"name": "bob"}')
    assert len(open_source(str(root))) == 6


FIRST_BYTES = {
    "photo.HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image .*pip install pillow-heif, or convert it"),
    "photo.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image"),
    "photo.webp": (b"\0\0\0\x18ftypavif\0\0\0\0", "an AVIF image .*pillow>=11.3"),
    "raw.jpg": (b"II*\0\x10\0\0\0CR\x02\0", "a camera's raw file .*develop"),
    "photo.jxl": (b"\xff\x0a" + bytes(20), "a JPEG XL image"),
    "photo.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a git-lfs pointer.*git lfs pull"),
    "error.png": (b"<!DOCTYPE html>\n<html><body>404 Not Found", "a web page.*download it again"),
    "drawing.png": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg">', "an SVG drawing"),
    "denied.jpg": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "XML, often a server's error"),
    "clip.jpg": (b"\0\0\0\x18ftypisom", "a video"),
    "scan.png": (b"%PDF-1.7\n", "a PDF"),
    "lost.png": (bytes(500), "zeros only"),
    "note.png": (b"please see attachment\n", "text, which begins 'please see attachment'"),
    "odd.png": (b"\xf1\x02\x00\x01", "no image of a known format"),
}


@pytest.mark.parametrize("name", FIRST_BYTES)
def test_what_is_no_image_is_named_by_what_it_is_whatever_its_name(name, monkeypatch):
    data, words = FIRST_BYTES[name]
    monkeypatch.setattr(decoding, "readable_formats", lambda: ("PNG", "JPEG"))  # as with neither HEIC nor AVIF
    with pytest.raises(DataError, match=f"{name} cannot be read: it is {words}"):
        decode(data, name)


def test_a_broken_image_stops_training_with_the_setting_that_leaves_it_out(tmp_path):
    root = photos(tmp_path / "data", "cat", "dog")
    (root / "cat" / "0.png").write_bytes(b"\xff\x0a")
    with pytest.raises(DataError, match=r"`data.on_error=skip`"):
        ImageLoader(open_source(str(root)), Preparation(11))


def test_twelve_bits_in_sixteen_are_reported(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            values = np.random.default_rng(i).integers(0, 4096, (16, 16), dtype=np.uint16)
            Image.fromarray(values).save(tmp_path / name / f"{i}.tiff")
    heard = Heard()
    image_sources(Data(source=str(tmp_path), image_size=11)).read(heard)
    assert any("training images are nearly black: no value is above an eighth of the range" in s for s in heard.said)


RAMP = np.linspace(0, 255, 4 * 6 * 6).round().reshape(4, 6, 6)


@pytest.mark.parametrize(
    "kept",
    [
        RAMP.astype(np.uint8),
        RAMP.astype(np.int64),
        RAMP.astype(np.float32),
        (RAMP / 255).astype(np.float32),
        (RAMP / 127.5 - 1).astype(np.float64),
        (RAMP * 257).astype(np.uint16),
    ],
    ids=lambda array: f"{array.dtype} to {array.max():g}",
)
def test_pixels_of_a_range_beyond_doubt_are_read_as_they_were_meant(kept, tmp_path):
    np.testing.assert_array_equal(as_bytes(in_memory(kept, kept.nbytes), "images").read(0, len(kept)), RAMP)
    np.savez(tmp_path / "data.npz", images=kept, labels=np.array([0, 1, 0, 1]))
    np.testing.assert_array_equal(open_source(str(tmp_path / "data.npz")).image(3)[..., 0], RAMP[3])


@pytest.mark.parametrize(
    "kept",
    [
        (RAMP / 100 - 1).astype(np.float32),
        ((RAMP - RAMP.mean()) / RAMP.std()).astype(np.float32),
        (RAMP * 16).astype(np.uint16),
        (RAMP - 128).astype(np.int8),
        (RAMP * 1000).astype(np.int64),
    ],
    ids=lambda array: f"{array.dtype} from {array.min():g} to {array.max():g}",
)
def test_pixels_of_an_unknown_range_are_refused_with_advice_that_keeps_the_picture(kept):
    with pytest.raises(DataError, match="the range is not known") as refused:
        as_bytes(in_memory(kept, kept.nbytes), "images")
    advice = str(refused.value.remedy).removeprefix("save bytes: ")
    followed = eval(advice, {"images": kept})  # as a user would follow it
    assert followed.dtype == np.uint8
    assert np.abs(followed.astype(int) - RAMP).max() <= 1


@pytest.mark.parametrize("wrong", [np.full((2, 4, 4), np.nan), np.zeros((2, 4, 4)), np.array(["a"])])
def test_arrays_without_a_picture_are_refused(wrong):
    with pytest.raises(DataError):
        as_bytes(in_memory(wrong, wrong.nbytes), "images")


def test_an_empty_path_is_refused_wherever_one_is_given():
    from ldm.cli.layers import merged_config

    for command, flag in [("train-vqvae", "data.source"), ("train-dit", "latents"), ("data inspect", "source")]:
        with pytest.raises(ConfigError, match=r"an empty path; is a variable not set\?"):
            merged_config(command, flags={flag: ""})
