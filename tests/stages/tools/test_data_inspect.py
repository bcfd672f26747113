"""`ldm data inspect` says of any source what training would make of it, and ends with 3 where training would stop."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldm.core.errors import ConfigError, DataError
from ldm.core.images.sources import open_splits
from ldm.core.progress import Outcome, Silent
from ldm.stages.configs.data_tools import DataInspect
from ldm.stages.tools import data_inspect
from tests.core.images.test_sources import WAYS, class_folders, idx, webdataset
from tests.core.images.test_sources import png as plain_png
from tests.support.pictured import landscape, png
from tests.support.pipeline_run import Heard


def inspected(source: Path | str, progress: Any = None, **settings: Any) -> Outcome:
    return data_inspect.run(DataInspect(source=str(source), **settings), progress or Silent())


def photos(root: Path, classes: dict[str, int], size: int = 48) -> Path:
    number = 0
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for _ in range(count):
            (root / name / f"{number:04d}.png").write_bytes(png(landscape(number, size)))
            number += 1
    return root


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_keeping_images_is_looked_at(way: Any, tmp_path: Path) -> None:
    outcome = inspected(way(tmp_path), image_size=8)
    assert outcome.exit_code == 0 and outcome.verdict == "can be trained on: 12 images of 3 classes"
    assert outcome.facts["classes"] == [{"name": name, "counts": {"all": 4}} for name in ("cat", "dog", "eel")]
    assert outcome.facts["sizes"]["width"] == {"min": 6, "median": 6, "max": 6} and outcome.facts["smaller"] == 12


def test_idx_and_built_in_digits_are_looked_at(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    idx(tmp_path / "train-images-idx3-ubyte", pixels)
    idx(tmp_path / "train-labels-idx1-ubyte", np.arange(20) % 10)
    assert inspected(tmp_path).facts["modes"] == {"L": 20}
    facts = inspected("mnist").facts
    assert facts["images"] == {"train": 10_000, "test": 1_000} and facts["largest_size"] == 32
    assert [each["counts"] for each in facts["classes"]] == [{"train": 1000, "test": 100}] * 10


def test_classes_are_counted_by_part_and_drawn_as_bars(tmp_path: Path) -> None:
    photos(tmp_path / "p" / "train", {"cat": 8, "dog": 4})
    photos(tmp_path / "p" / "val", {"dog": 2})
    outcome = inspected(tmp_path / "p")
    assert outcome.facts["classes"] == [
        {"name": "cat", "counts": {"train": 8, "val": 0}},
        {"name": "dog", "counts": {"train": 4, "val": 2}},
    ]
    cat, dog = (outcome.summary[f"class {name}"] for name in ("cat", "dog"))
    assert cat.count("█") == 2 * dog.count("█") == 24 and dog.endswith("4 (33.3%), 2 in val")


def test_everything_that_would_stop_training_is_named_and_the_exit_code_is_3(tmp_path: Path) -> None:
    root = photos(tmp_path / "p", {"cat": 6, "dog": 6})
    (root / "cow").mkdir()
    (root / "eel").mkdir()
    with open(os.fsencode(root / "cat") + b"/\xff\n.png", "wb") as file:  # noqa: PTH123 (a name of bytes)
        file.write(png(landscape(50))[:100])
    (root / "dog" / "void.jpg").write_bytes(b"")
    heard = Heard()
    outcome = inspected(root, heard)
    assert outcome.exit_code == 3 and str(outcome.verdict).startswith("would stop training")
    stops = "\n".join(outcome.facts["stops"])
    assert "folder cow has" in stops and "folder eel has" in stops and "2 images cannot be decoded" in stops
    assert {image["name"] for image in outcome.facts["broken"]} == {"cat/\udcff\n.png", "dog/void.jpg"}
    assert next(image for image in outcome.facts["broken"] if "void" in image["name"])["reason"].endswith("is empty")
    assert len(heard.warnings) == 2 and all(message.isprintable() for message in heard.warnings)
    assert all(line.isprintable() for row in outcome.summary.items() for line in row)
    json.dumps(outcome.facts)


def test_validation_images_of_unknown_classes_would_stop_training(tmp_path: Path) -> None:
    data, others = photos(tmp_path / "a", {"cat": 4, "dog": 4}), photos(tmp_path / "b", {"cow": 2, "cat": 2})
    outcome = inspected(data, validation=str(others))
    assert outcome.exit_code == 3 and "cow" in outcome.facts["stops"][0]
    assert {"name": "cow", "counts": {"all": 0, "val": 2}} in outcome.facts["classes"]


def test_data_without_images_to_train_on_would_stop_training(tmp_path: Path) -> None:
    webdataset(tmp_path / "val-0.tar", range(12))
    webdataset(tmp_path / "test-0.tar", range(12))
    outcome = inspected(tmp_path)
    assert outcome.exit_code == 3 and "nothing to train on" in outcome.facts["stops"][0]
    with pytest.raises(DataError, match="not train"):
        open_splits(str(tmp_path))


def test_only_the_parts_that_training_opens_can_stop_it(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        photos(tmp_path / "p" / part, {"cat": 2, "dog": 2})
    (tmp_path / "p" / "test" / "cat" / "void.jpg").write_bytes(b"")
    (tmp_path / "p" / "test" / "eel").mkdir()
    outcome = inspected(tmp_path / "p")
    assert outcome.exit_code == 0 and outcome.facts["stops"] == []
    assert "eel" in outcome.summary["not opened 1"] and "test/cat/void.jpg" in outcome.summary["not opened 2"]
    (tmp_path / "p" / "val").rename(tmp_path / "elsewhere")
    outcome = inspected(tmp_path / "p")
    assert outcome.exit_code == 3 and len(outcome.facts["stops"]) == 2 and outcome.facts["not_opened"] == []
    assert inspected(tmp_path / "p", validation=str(tmp_path / "elsewhere")).exit_code == 0


def test_one_part_beside_a_test_part_is_divided_as_training_does(tmp_path: Path) -> None:
    pixels = np.zeros((2, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, labels=[0, 0], test_images=pixels, test_labels=[0, 0])
    outcome = inspected(tmp_path / "a.npz")
    assert outcome.exit_code == 3 and "too few different images" in outcome.facts["stops"][0]


def test_a_number_beyond_the_labels_is_reported_in_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 8, 8), np.uint8), labels=[0, 1, 5000])
    stops = inspected(tmp_path / "a.npz").facts["stops"]
    assert "label 5000 of 000002 is the greatest" in stops[0] and len(stops) <= 2


def test_too_few_images_to_split_would_stop_training(tmp_path: Path) -> None:
    (stop,) = inspected(photos(tmp_path / "p", {"cat": 1})).facts["stops"]
    assert "too few different images" in stop


def test_a_source_that_cannot_be_opened_is_refused_as_training_would(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "p")
    (root / "loose.png").write_bytes(plain_png(np.zeros((4, 4, 3), dtype=np.uint8)))
    with pytest.raises(DataError, match="outside them"):
        inspected(root)


def test_names_that_speak_against_their_label_are_reported(tmp_path: Path) -> None:
    root = photos(tmp_path / "p", {"cat": 2, "dog": 2, "Dogs": 2})
    (root / "cat" / "dog_17.png").write_bytes(png(landscape(60)))
    outcome = inspected(root)
    assert outcome.facts["suspicious"] == [{"name": "cat/dog_17.png", "own": "cat", "other": "dog"}]
    assert outcome.facts["similar_classes"] == [["Dogs", "dog"]] and outcome.exit_code == 0
    assert "cat/dog_17.png" in outcome.summary["labels"] and "Dogs and dog" in outcome.summary["class names"]


def test_of_very_many_classes_the_largest_and_the_smallest_are_shown(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(60), np.arange(1, 61))
    np.savez(tmp_path / "many.npz", images=np.zeros((len(labels), 4, 4), np.uint8), labels=labels)
    outcome = inspected(tmp_path / "many.npz")
    shown = [name for name in outcome.summary if name.startswith("class ")]
    assert len(shown) == 40 and shown[0] == "class 59" and shown[-1] == "class 0"
    assert "60" in outcome.summary["classes"] and len(outcome.facts["classes"]) == 60


def test_the_sheet_is_written_where_asked_and_over_nothing(tmp_path: Path) -> None:
    root = photos(tmp_path / "p", {"cat": 3, "dog": 1})
    before = sorted(tmp_path.rglob("*"))
    assert inspected(root).pictures == [] and sorted(tmp_path.rglob("*")) == before
    sheet = tmp_path / "sheet.png"
    assert inspected(root, sheet=sheet, image_size=32).pictures == [sheet]
    first = np.asarray(Image.open(sheet))
    assert first.shape[0] >= 2 * 64
    with pytest.raises(ConfigError, match="not overwritten"):
        inspected(root, sheet=sheet)
    inspected(root, sheet=sheet, image_size=16, replace=True)
    assert not np.array_equal(np.asarray(Image.open(sheet)), first)


def test_images_on_a_list_are_left_out(tmp_path: Path) -> None:
    root = photos(tmp_path / "p", {"cat": 3, "dog": 3})
    (root / "cat" / "0000.png").write_bytes(b"")
    (tmp_path / "list.txt").write_text("cat/0000.png\n")
    outcome = inspected(root, exclude=tmp_path / "list.txt")
    assert outcome.exit_code == 0 and outcome.facts["images"] == {"all": 5}


def test_of_very_many_broken_images_only_the_first_are_warned_of(tmp_path: Path) -> None:
    root, heard = photos(tmp_path / "p", {"cat": 4}), Heard()
    for number in range(50):
        (root / "cat" / f"broken-{number}.png").write_bytes(b"no image")
    outcome = inspected(root, heard)
    assert len(heard.warnings) == 21 and "only counted" in heard.warnings[-1]
    assert outcome.summary["broken"] == "50"


def test_captions_are_looked_at_and_those_that_are_missing_stop_a_model_of_text(tmp_path: Path) -> None:
    place = photos(tmp_path, {"all": 3}) / "all"
    for number, image in enumerate(sorted(place.glob("*"))):
        image.with_suffix(".txt").write_text(f"a photo\nnumber {number}")
    found = inspected(place)
    assert found.exit_code == 0 and found.facts["captions"]["captions"] == 6
    assert found.summary["captions"].startswith("6 of 3 images, 2 an image") and "words" in found.summary["lengths"]
    image.with_suffix(".txt").unlink()
    stopped = inspected(place)
    assert stopped.exit_code == 3 and image.name in " ".join(stopped.facts["stops"])
    assert inspected(place, captions="none").exit_code == 0
