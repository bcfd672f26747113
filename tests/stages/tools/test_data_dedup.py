"""`ldm data dedup` finds planted copies, all of them and no others, and writes lists that training takes."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldm.core.errors import ConfigError, DataError
from ldm.core.images.exclusion import read_exclusion
from ldm.core.images.sources import open_splits
from ldm.core.progress import Outcome, Silent
from ldm.stages.configs.data_tools import DataDedup
from ldm.stages.tools import data_dedup
from tests.core.images.test_sources import idx, tarred, zipped
from tests.support.garments import write_garments
from tests.support.imagenet_weights import write_turned_mobilenet
from tests.support.pictured import EDITS, jpeg, landscape, png
from tests.support.pipeline_run import Heard, Pipeline

CLASSES = {"cat": range(12), "dog": range(12, 24)}


def searched(source: Path | str, progress: Any = None, **settings: Any) -> Outcome:
    return data_dedup.run(DataDedup(source=str(source), **settings), progress or Silent())


def listed(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def groups_in(path: Path) -> list[set[str]]:
    groups: dict[int, set[str]] = {}
    for line in listed(path):
        groups.setdefault(line["group"], set()).add(line["name"])
    return list(groups.values())


def photos(root: Path) -> Path:
    """Two classes of twelve pictures, no two of them copies."""
    for name, numbers in CLASSES.items():
        (root / name).mkdir(parents=True)
        for number in numbers:
            (root / name / f"{number:04d}.png").write_bytes(png(landscape(number)))
    return root


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """The two classes, with a copy of a picture of its own for each way of copying."""
    root = photos(tmp_path / "photos")
    shutil.copy(root / "cat" / "0000.png", root / "cat" / "same file.png")
    Image.fromarray(landscape(1)).save(root / "cat" / "same pixels.bmp")
    for number, (edit, made) in enumerate(EDITS.items(), 2):
        (root / "cat" / f"{edit}.{'jpg' if edit == 'jpeg' else 'png'}").write_bytes(made(landscape(number)))
    (root / "dog" / "mirror.png").write_bytes(png(landscape(12)[:, ::-1]))
    return root


PLANTED = {"same file": ("0000", "bytes"), "same pixels": ("0001", "pixels")}
PLANTED |= {edit: (f"{number:04d}", "hash") for number, edit in enumerate(EDITS, 2)}


def test_every_planted_copy_is_found_by_what_it_is_and_nothing_else_is(planted: Path, tmp_path: Path) -> None:
    outcome = searched(planted, out=tmp_path / "list.jsonl")
    lines = listed(tmp_path / "list.jsonl")
    copies = {Path(line["name"]).stem: line for line in lines if not line["keep"]}
    kept = {Path(line["name"]).stem for line in lines if line["keep"]}
    pairs = {frozenset((stem, Path(line["of"]).stem)): line["kind"] for stem, line in copies.items()}
    assert pairs == {frozenset((stem, number)): kind for stem, (number, kind) in PLANTED.items()}
    assert len(kept) == len(PLANTED) and outcome.facts["groups"] == len(PLANTED)
    assert outcome.facts["copies"] == {"hash": len(EDITS), "bytes": 1, "pixels": 1} and not outcome.facts["chains"]
    assert all(line["distance"] <= 10 and line["likeness"] >= 0.92 for line in lines)
    assert "larger" in kept and "half" in copies, "the larger one stays"


def test_mirrored_copies_are_found_when_asked_for(planted: Path, tmp_path: Path) -> None:
    assert searched(planted).facts["copies"].get("mirrored") is None
    outcome = searched(planted, mirrored=True, out=tmp_path / "list.jsonl")
    assert outcome.facts["copies"]["mirrored"] == 1 and {"dog/0012.png", "dog/mirror.png"} in groups_in(
        tmp_path / "list.jsonl"
    )


def test_a_source_without_copies_has_none_and_empty_lists_are_written(tmp_path: Path) -> None:
    outcome = searched(photos(tmp_path / "p"), out=tmp_path / "list.csv", exclude_out=tmp_path / "list.txt")
    assert outcome.verdict == "holds no copies among 24 images" and outcome.facts["groups"] == 0
    assert len((tmp_path / "list.csv").read_text().splitlines()) == 1
    assert read_exclusion(tmp_path / "list.txt").names == frozenset()


def in_folders(root: Path, tmp: Path) -> str:
    return str(root)


def in_a_zip(root: Path, tmp: Path) -> str:
    return str(zipped(root, tmp / "photos.zip"))


def in_tars(root: Path, tmp: Path) -> str:
    members: dict[str, bytes] = {}
    for file in sorted(root.rglob("*.*")):
        key = f"{file.parent.name}-{file.stem}"
        members |= {f"{key}{file.suffix}": file.read_bytes(), f"{key}.cls": file.parent.name.encode()}
    return str(tarred(tmp / "photos.tar", members))


@pytest.mark.parametrize("way", [in_folders, in_a_zip, in_tars])
def test_files_are_searched_wherever_they_are_kept(way: Any, planted: Path, tmp_path: Path) -> None:
    outcome = searched(way(planted, tmp_path), mirrored=True)
    assert outcome.facts["copies"] == {"hash": len(EDITS), "bytes": 1, "pixels": 1, "mirrored": 1}


def test_arrays_are_searched_and_parts_that_name_images_alike_are_reported_apart(tmp_path: Path) -> None:
    pixels = np.stack([landscape(number, 32) for number in range(30)])
    test = np.stack([pixels[1], landscape(40, 32), pixels[29]])
    labels = np.arange(30) % 2
    names = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(tmp_path / "a.npz", **dict(zip(names, (pixels, labels, test, np.array([1, 0, 0])), strict=True)))
    outcome = searched(tmp_path / "a.npz", exclude_out=tmp_path / "list.txt", out=tmp_path / "list.jsonl")
    assert outcome.facts["leaks"] == [1, 2] and outcome.facts["conflicts"] == [2]
    assert read_exclusion(tmp_path / "list.txt").names == {"train/000001", "000029"}
    train, held_out = open_splits(str(tmp_path / "a.npz"), exclude=read_exclusion(tmp_path / "list.txt"))
    assert (len(train), len(held_out)) == (28, 3)
    idx(tmp_path / "images-idx3-ubyte", np.concatenate([pixels, pixels[:1]])[:, :, :, 0])
    idx(tmp_path / "labels-idx1-ubyte", np.zeros(31))
    assert searched(tmp_path / "images-idx3-ubyte").facts["copies"] == {"bytes": 1}


def test_a_list_made_with_another_list_says_which_part_is_meant_as_before(tmp_path: Path) -> None:
    pixels = np.stack([landscape(number, 32) for number in range(8)])
    pixels[5] = pixels[3]
    val = np.stack([landscape(number, 32) for number in range(40, 46)])
    names = ("train_images", "train_labels", "val_images", "val_labels")
    np.savez(tmp_path / "a.npz", **dict(zip(names, (pixels, np.arange(8) % 2, val, np.arange(6) % 2), strict=True)))
    (tmp_path / "old.txt").write_text("val/000005\nval/000003\n")
    searched(tmp_path / "a.npz", exclude=tmp_path / "old.txt", exclude_out=tmp_path / "new.txt")
    both = read_exclusion(tmp_path / "new.txt")
    assert both.names == {"val/000005", "val/000003", "train/000005"}
    assert [len(each) for each in open_splits(str(tmp_path / "a.npz"), exclude=both)] == [7, 4]


def test_one_picture_under_two_labels_is_called_out(tmp_path: Path) -> None:
    root = photos(tmp_path / "p")
    (root / "dog" / "cat?.jpg").write_bytes(jpeg(landscape(3)))
    outcome = searched(root, exclude_out=tmp_path / "one.txt")
    assert outcome.facts["conflicts"] == [1] and "cat/0003.png = dog/cat?.jpg" in outcome.summary["labels"]
    assert read_exclusion(tmp_path / "one.txt").names == {"dog/cat?.jpg"}
    searched(root, exclude_out=tmp_path / "none.txt", drop_conflicts=True)
    assert read_exclusion(tmp_path / "none.txt").names == {"dog/cat?.jpg", "cat/0003.png"}


def test_a_held_out_image_that_is_trained_on_too_is_called_out_and_the_training_copy_is_left_out(
    tmp_path: Path,
) -> None:
    photos(tmp_path / "p" / "train")
    (tmp_path / "p" / "test" / "cat").mkdir(parents=True)
    (tmp_path / "p" / "test" / "cat" / "leak.jpg").write_bytes(jpeg(landscape(3), 60))
    (tmp_path / "p" / "test" / "cat" / "new.jpg").write_bytes(jpeg(landscape(99)))
    outcome = searched(tmp_path / "p", exclude_out=tmp_path / "list.txt")
    assert outcome.facts["leaks"] == [1] and "test/cat/leak.jpg = train/cat/0003.png" in outcome.summary["leaks"]
    assert read_exclusion(tmp_path / "list.txt").names == {"train/cat/0003.png"}
    elsewhere = searched(tmp_path / "p" / "train", validation=str(tmp_path / "p" / "test"))
    assert elsewhere.facts["leaks"] == [1]


def test_copies_on_both_sides_of_trainings_own_split_are_reported(tmp_path: Path) -> None:
    root = photos(tmp_path / "p")
    train, val = open_splits(str(root))
    for name in (val.names[0], train.names[0]):
        copy = root / f"{name} copy.jpg"
        copy.write_bytes(jpeg(np.asarray(Image.open(root / name))))
    both = {Path(name).name for name in open_splits(str(root))[1].names}
    outcome = searched(root, out=tmp_path / "list.jsonl")
    across = [
        number
        for number, group in enumerate(groups_in(tmp_path / "list.jsonl"), 1)
        if len({Path(name).name in both for name in group}) == 2
    ]
    assert outcome.facts["split_leaks"] == across and outcome.facts["leaks"] == []


def test_what_the_list_names_can_be_left_out_of_training_and_then_there_are_no_copies(
    planted: Path, tmp_path: Path
) -> None:
    found = searched(planted, mirrored=True, exclude_out=tmp_path / "list.txt")
    out = read_exclusion(tmp_path / "list.txt")
    assert len(out.names) == len(PLANTED) + 1 == found.facts["left_out"]
    assert found.next_commands == [f"ldm train-vqvae --data {planted} --exclude {tmp_path / 'list.txt'}"]
    again = searched(planted, mirrored=True, exclude=out.path, exclude_out=tmp_path / "more.txt")
    assert again.facts["groups"] == 0 and again.facts["images"] == {"all": 24}
    assert read_exclusion(tmp_path / "more.txt").names == out.names, "what was left out before stays on the list"
    train, val = open_splits(str(planted), exclude=out)
    assert len(train) + len(val) == 24


def test_broken_files_are_named_and_the_others_compared(planted: Path) -> None:
    (planted / "cat" / "torn.png").write_bytes(png(landscape(70))[:200])
    (planted / "cat" / "torn too.png").write_bytes(png(landscape(70))[:200])
    heard = Heard()
    outcome = searched(planted, heard)
    assert outcome.facts["broken"] == ["cat/torn too.png", "cat/torn.png"] and len(heard.warnings) == 2
    assert outcome.facts["groups"] == len(PLANTED) and "torn.png" in outcome.summary["broken"]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_lists_hold_names_that_are_no_utf_8_as_they_are(kind: str, tmp_path: Path) -> None:
    root = photos(tmp_path / "p")
    strange = os.fsencode(root / "cat") + b'/\xff\n, ".png'
    with open(strange, "wb") as file:  # noqa: PTH123 (a name of bytes)
        file.write(png(landscape(3)))
    searched(root, out=tmp_path / f"list.{kind}", exclude_out=tmp_path / "list.txt")
    if kind == "csv":
        with (tmp_path / "list.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows: list[Any] = list(csv.DictReader(file))
    else:
        rows = listed(tmp_path / "list.jsonl")
    name = 'cat/\udcff\n, ".png'
    assert {row["name"] for row in rows} == {"cat/0003.png", name}
    assert read_exclusion(tmp_path / "list.txt").names < {"cat/0003.png", name}
    assert list(rows[0]) == ["group", "keep", "kind", "distance", "likeness", "of", "class", "part", "name"]


def test_nothing_is_deleted_and_nothing_is_written_but_what_was_asked_for(planted: Path, tmp_path: Path) -> None:
    def state() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}

    before = state()
    searched(planted, mirrored=True)
    assert state() == before
    for setting, name in (("out", "a.csv"), ("exclude_out", "a.txt"), ("sheet", "a.png")):
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(ConfigError, match=f"{name}` exists, and is not overwritten"):
            searched(planted, **{setting: tmp_path / name})
        searched(planted, replace=True, **{setting: tmp_path / name})
        assert (tmp_path / name).read_bytes() != b"mine"


def test_the_sheet_shows_groups_of_two_and_more(planted: Path, tmp_path: Path) -> None:
    for number, quality in enumerate((50, 60, 80, 90)):
        (planted / "cat" / f"again {number}.jpg").write_bytes(jpeg(landscape(0), quality))
    for order in ("size", "doubt"):
        outcome = searched(planted, sheet=tmp_path / f"{order}.png", sheet_order=order)
        assert outcome.pictures == [tmp_path / f"{order}.png"]
        assert Image.open(tmp_path / f"{order}.png").width <= 8 * 130 + 2
    assert (tmp_path / "size.png").read_bytes() != (tmp_path / "doubt.png").read_bytes()


def test_many_that_look_like_others_raise_a_doubt(planted: Path, tmp_path: Path) -> None:
    assert "doubt" in searched(planted).summary, "seven of thirty-two"
    assert "doubt" not in searched(photos(tmp_path / "p")).summary


def test_features_find_what_the_hash_does_not(trained: Pipeline, images: Path, tmp_path: Path) -> None:
    weights = trained.folder / "classifier" / "final"
    settings = {"features": "classifier", "weights": weights, "feature_distance": 1e-9}
    assert searched(images).facts["groups"] == searched(images, **settings).facts["groups"] == 0
    found = searched(images, out=tmp_path / "list.jsonl", **{**settings, "feature_distance": 0.9})
    assert set(found.facts["copies"]) == {"features"} and found.facts["left_out"] > 60
    assert any(line["kind"] == "features" and 0 < line["distance"] <= 0.9 for line in listed(tmp_path / "list.jsonl"))


def test_mobilenets_features_know_a_crop_that_no_hash_knows(shared: Path, tmp_path: Path) -> None:
    root = photos(tmp_path / "p")
    (root / "cat" / "crop.png").write_bytes(png(landscape(3, 160)[12:-12, 12:-12]))
    (root / "cat" / "0003.png").write_bytes(png(landscape(3, 160)))
    weights = write_turned_mobilenet(shared, tmp_path / "turned.safetensors")
    assert searched(root).facts["groups"] == 0
    settings = {"features": "mobilenet-v2", "weights": weights, "feature_distance": 0.12}
    found = searched(root, **settings, out=tmp_path / "list.jsonl")
    assert {"cat/0003.png", "cat/crop.png"} in groups_in(tmp_path / "list.jsonl"), found.facts


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        searched(photos(tmp_path / "p"), features="mobilenet-v2", weights=tmp_path / "nowhere")


def test_different_garments_on_one_cloth_are_no_copies_and_true_copies_among_them_are(tmp_path: Path) -> None:
    true = write_garments(tmp_path / "shop", per_class=24, copies=2, side=96)
    heard = Heard()
    searched(tmp_path / "shop", heard, out=tmp_path / "groups.jsonl")
    assert "unrelated images look alike" in heard.notes[-2]
    groups = groups_in(tmp_path / "groups.jsonl")
    assert sum(pair in groups for pair in true) >= 7, "most of ten copies, smaller and of lower quality"
    assert len(groups) <= len(true), "different garments are in no group"
    without = searched(tmp_path / "shop", detail=-1.0)
    assert without.facts["left_out"] >= 30 and "chains" in without.summary["doubt"]
