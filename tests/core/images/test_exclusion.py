"""A list of names leaves out the images it names, those alone, and is refused where it does not fit."""

import json
from pathlib import Path

import numpy as np
import pytest

from ldm.core.errors import DataError
from ldm.core.images.exclusion import Exclusion, read_exclusion, write_exclusion
from ldm.core.images.sources import open_parts, open_splits
from tests.core.images.test_sources import CLASSES, LABELS, PIXELS, class_folders, png, tarred, webdataset, zipped

STRANGE = ["plain.png", "new\nline", "\udcff not utf-8", '"quoted"', "# no comment", "[list]", " spaced ", "dots.", ""]


def excluding(*names: str) -> Exclusion:
    return Exclusion(Path("list.txt"), frozenset(names))


def test_whatever_a_file_may_be_called_comes_back_from_a_list(tmp_path):
    write_exclusion(tmp_path / "list.txt", STRANGE, ["a comment", "and another"])
    read = read_exclusion(tmp_path / "list.txt")
    assert read.names == frozenset(STRANGE) and len(read.names) == len(STRANGE)
    (tmp_path / "list.json").write_text(json.dumps(STRANGE))
    assert read_exclusion(tmp_path / "list.json").sha256 == read.sha256
    assert excluding(*STRANGE[1:]).sha256 != read.sha256


def test_a_list_made_by_hand_may_have_comments_empty_lines_and_any_line_ends(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf# mine\r\n\r\ncat/0001.png\r\n[1].png\n")
    assert read_exclusion(tmp_path / "list.txt").names == {"cat/0001.png", "[1].png"}


@pytest.mark.parametrize(("content", "says"), [(b'cat/1.png\n"half', "line 2"), (None, "cannot be read")])
def test_what_is_no_list_is_named(tmp_path, content, says):
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=says) as refused:
        read_exclusion(tmp_path / "list.txt")
    assert "list.txt" in refused.value.message


def test_listed_images_are_in_neither_part_and_all_others_are(tmp_path):
    location = str(class_folders(tmp_path / "photos"))
    train, val = open_splits(location, val_fraction=0.3)
    gone = [train.names[0], val.names[0]]
    train, val = open_splits(location, val_fraction=0.3, exclude=excluding(*gone))
    everything = set(open_parts(location)["all"].names)
    assert set(train.names) | set(val.names) == everything - set(gone) and len(train) + len(val) == 10
    assert [train.class_names[label] for label in train.labels] == [name.split("/")[0] for name in train.names]


def test_what_is_left_out_moves_no_other_image_to_the_other_side(tmp_path):
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (90, 6, 6, 3), dtype=np.uint8), np.repeat(np.arange(3), 30)
    location = str(class_folders(tmp_path / "photos", pixels, labels))
    before = open_splits(location, val_fraction=0.3)
    gone = excluding(*before[0].names[::7], *before[1].names[::7])
    for part, whole in zip(open_splits(location, val_fraction=0.3, exclude=gone), before, strict=True):
        assert set(part.names) == set(whole.names) - gone.names


def test_parts_in_folders_are_reported_apart_by_their_names(tmp_path):
    class_folders(tmp_path / "p" / "train")
    class_folders(tmp_path / "p" / "test", PIXELS[::2], LABELS[::2])
    exclude = excluding("train/cat/0001.png", "test/dog/0002.png")
    for location in (tmp_path / "p", zipped(tmp_path / "p", tmp_path / "p.zip")):
        train, val = open_splits(str(location), exclude=exclude)
        assert len(train) == 11 and len(val) == 5 and not {*train.names, *val.names} & exclude.names


def two_tars(folder: Path) -> str:
    folder.mkdir()
    webdataset(folder / "train-00.tar", range(12))
    webdataset(folder / "val-00.tar", range(3, 6))
    return str(folder)


def an_npz_with_parts(folder: Path) -> str:
    names = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(folder.with_suffix(".npz"), **dict(zip(names, (PIXELS, LABELS, PIXELS[:6], LABELS[:6]), strict=True)))
    return str(folder.with_suffix(".npz"))


@pytest.mark.parametrize(
    ("made", "name", "held_out"), [(two_tars, "0004.png", "val"), (an_npz_with_parts, "000004", "test")]
)
def test_parts_that_name_their_images_alike_are_reported_apart_by_a_prefix(tmp_path, made, name, held_out):
    location = made(tmp_path / "data")
    train, val = open_splits(location, exclude=excluding(f"{held_out}/{name}"))
    assert name in train.names and name not in val.names
    train, val = open_splits(location, exclude=excluding(f"train/{name}"))
    assert name not in train.names and name in val.names
    with pytest.raises(DataError, match=f"{name} could be two images") as refused:
        open_splits(location, exclude=excluding(name))
    assert f"train/… and {held_out}/…" in str(refused.value)


def test_an_image_of_a_part_that_is_not_used_may_be_listed(tmp_path):
    for part in ("train", "val", "test"):
        class_folders(tmp_path / "p" / part)
    others = class_folders(tmp_path / "others")
    assert len(open_splits(str(tmp_path / "p"), exclude=excluding("test/cat/0000.png"))[0]) == 12
    listed = excluding("test/cat/0000.png", "train/cat/0001.png")
    train, val = open_splits(str(tmp_path / "p"), str(others), exclude=listed)
    assert (len(train), len(val)) == (11, 12)


def test_validation_images_from_elsewhere_can_be_listed_by_their_part(tmp_path):
    data, others = class_folders(tmp_path / "data"), class_folders(tmp_path / "others")
    train, val = open_splits(str(data), str(others), exclude=excluding("val/eel/0011.png"))
    assert (len(train), len(val)) == (12, 11)
    with pytest.raises(DataError, match="could be two images"):
        open_splits(str(data), str(others), exclude=excluding("eel/0011.png"))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            ["cat/0000.png", "cat/9999.png", "cow/1.png"],
            "lists what is not an image of .*: cat/9999.png, cow/1.png",
        ),
        ([f"eel/{number:04d}.png" for number in range(8, 12)], "leaves out every image of class eel"),
        ([f"{CLASSES[label]}/{row:04d}.png" for row, label in enumerate(LABELS)], "leaves out every image of"),
    ],
)
def test_a_list_that_does_not_fit_is_refused_by_name(tmp_path, names, says):
    with pytest.raises(DataError, match=f"list.txt {says}"):
        open_splits(str(class_folders(tmp_path / "photos")), exclude=excluding(*names))


def test_strange_names_can_be_left_out(tmp_path):
    names = ["dots.in.it.png", "\udcff.png", "new\nline.png"]
    members = {}
    for number, name in enumerate([*names, "a.png", "b.png"]):
        members[name] = png(np.full((2, 2, 3), number, dtype=np.uint8))
        members[name.removesuffix("png") + "cls"] = b"0"
    location = str(tarred(tmp_path / "p.tar", members))
    write_exclusion(tmp_path / "list.txt", names)
    train, val = open_splits(location, val_fraction=0.5, exclude=read_exclusion(tmp_path / "list.txt"))
    assert {*train.names, *val.names} == {"a.png", "b.png"}
