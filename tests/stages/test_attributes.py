"""`labels.csv`: several labels of an image and numbers are encoded, trained on, asked for, and drawn again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ldm.core.conditioning.attributes import STORED, AttributeConditioning, Number
from ldm.core.conditioning.registry import rebuilt
from ldm.core.errors import ConfigError, DataError
from ldm.core.features.extractor import Extractor
from ldm.core.files import sha256_json
from ldm.core.images.sets import image_sources
from ldm.core.images.settings import Data
from ldm.core.latents.attributes import Attributes
from ldm.core.latents.shards import load_shard
from ldm.core.metrics.evaluate import class_accuracy
from ldm.core.metrics.inputs import known_labels
from ldm.core.progress import Silent
from ldm.core.runs.run import MANIFEST
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from tests.support.pipeline_run import Heard, Pipeline, manifest, pngs, write_squares

SHORT = {"train__images": 32, "train__validate_every": 32, "train__checkpoint_every": 16, "preview__every": 32}
CONDITIONING = AttributeConditioning(("cat", "dog", "out door"), (Number("age", 10, 30, 18),))


def write_table(images: Path) -> Path:
    """Give images labels, some of them two, of which `red` is also the name of a class folder, and all a number."""
    lines = ["file,labels,age"]
    for path in sorted(images.glob("*/*.png")):
        number = int(path.stem)
        labels = {"blue": "cat", "green": "cat;outdoor" if number % 2 else "outdoor", "red": "red"}[path.parent.name]
        lines.append(f"{path.relative_to(images).as_posix()},{labels},{10 + number}")
    (images / "labels.csv").write_text("\n".join(lines))
    return images


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    root = tmp_path_factory.mktemp("attributes")
    pipeline = Pipeline(root / "runs", write_table(write_squares(root / "squares", per_class=12)))
    data = {"source": str(pipeline.images), "image_size": 16, "val_fraction": 0.25}
    pipeline.run("train-vqvae", data=data, train__images=16)
    made = pipeline.run("encode", conditioning="attributes")
    assert "--preset dit" in made.next_commands[0] and made.summary["numbers"] == "age"
    pipeline.run("train-dit", **SHORT)
    return pipeline


def test_shards_have_what_the_file_says_and_manifests_what_it_means(trained: Pipeline) -> None:
    _, samples = load_shard(trained.folder / "latents" / "shard-000000.tar", 0)
    for sample in samples:
        folder, number = sample.name.split("/")[0], int(sample.name[-7:-4])
        cat, outdoor = folder == "blue" or (folder == "green" and number % 2 == 1), folder == "green"
        red = folder == "red"
        np.testing.assert_array_equal(sample.arrays[STORED], np.float32([cat, outdoor, red, 10 + number]))
    facts = manifest(trained.folder / "dit")["facts"]
    assert facts["conditioning"]["labels"] == ["cat", "outdoor", "red"]
    assert facts["conditioning"]["numbers"][0]["name"] == "age"
    assert manifest(trained.folder / "latents")["inputs"].keys() == {"autoencoder", "data", "labels"}


def test_an_image_is_asked_for_by_several_labels_and_by_numbers_and_drawn_again(trained: Pipeline) -> None:
    made = trained.run("sample", num=1, classes="cat,outdoor", values=("age=15",), cfg=2.0, label="both")
    (image,) = manifest(made.directory)["facts"]["images"]
    assert image["labels"] == ["cat", "outdoor"] and image["values"] == {"age": 15.0}
    (file,) = made.directory.glob("0*.png")
    again = trained.run("sample", like=file, num=1, label="again").directory
    assert pngs(again) == pngs(made.directory)
    several = trained.run("sample", num=1, classes="cat;cat,outdoor;none", label="three").directory
    assert [each["labels"] for each in manifest(several)["facts"]["images"]] == [["cat"], ["cat", "outdoor"], []]
    assert len(pngs(trained.run("sample", num=1, label="all").directory)) == 3
    with pytest.raises(ConfigError, match="unknown class"):
        trained.run("sample", num=1, classes="cta")
    assert verify.run(Verify(path=trained.folder), Silent()).verdict == "is whole"


def test_a_training_that_was_interrupted_goes_on_to_the_same_weights(trained: Pipeline, tmp_path: Path) -> None:
    copy = trained.copy(tmp_path)
    folder = copy.folder / "dit"
    whole = load_file(folder / "final" / "model.safetensors")
    (folder / MANIFEST).unlink()
    shutil.rmtree(folder / "final")
    shutil.rmtree(max((folder / "checkpoints").iterdir()))
    copy.run("train-dit", **SHORT)
    resumed = load_file(folder / "final" / "model.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_labels_that_class_folders_are_named_after_are_checked_by_the_classifier(
    trained: Pipeline, tmp_path: Path
) -> None:
    copy, heard = trained.copy(tmp_path), Heard()
    copy.run("train-classifier", train__images=32)
    copy.run("sample", num=8, classes="red;cat;cat,red", label="three")
    evaluated = copy.run("eval", samples="three").directory
    document = json.loads((evaluated / "metrics.json").read_text())
    assert document["conditions"]["n_samples"] == 24 and document["conditions"]["n_classified"] == 16
    assert document["classes"].keys() == {"red"} and document["classes"]["red"]["samples"]["images"] == 16
    accuracy = document["classes"]["red"]["samples"]["accuracy"]
    assert document["numbers"]["class_accuracy[classifier]"] == accuracy
    copy.run("sample", num=20, classes="cat", label="other")
    evaluated = copy.run("eval", heard, samples="other").directory
    assert "class_accuracy[classifier]" not in json.loads((evaluated / "metrics.json").read_text())["numbers"]
    assert any("names of class folders" in warning for warning in heard.warnings)
    shutil.rmtree(copy.folder / "dit")
    measured = {"every": 32, "num": 24, "steps": 2, "features": "classifier", "best": "class_accuracy"}
    made = copy.run("train-dit", **{**SHORT, "preview__every": 0}, metrics=measured).directory
    assert manifest(made / "best")["facts"]["best"]["criterion"] == "class_accuracy[classifier]"


def test_an_image_is_checked_for_the_one_label_that_the_extractor_has_as_a_class() -> None:
    classes = Extractor("toy", 6, "abc", "none", ("dog", "out-door", "cat"), torch.device("cpu"), lambda x: (x, x))
    asked = [["cat"], ["cat", "young"], ["cat", "dog"], [], ["out door"]]
    found = known_labels(asked, classes, Silent())
    assert found is not None and found[0] == ("cat", "dog", "out door") and found[2] == [2, 0, 1]
    assert found[1].tolist() == [0, 0, -1, -1, 2]
    logits = torch.eye(3)[[2, 0, 0, 1, 1]]  # Read as cat, dog, dog, out-door, out-door.
    accuracy = class_accuracy(logits, torch.from_numpy(found[1]), found[2], "toy")
    assert accuracy == {"class_accuracy[toy]": pytest.approx(2 / 3)}
    assert known_labels([["young"]], classes, Silent()) is None


def test_pixels_are_trained_with_them_without_shards(trained: Pipeline, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path / "runs", trained.images)
    data = {"source": str(trained.images), "image_size": 16, "val_fraction": 0.25}
    pipeline.run("train-vqvae", data=data, model={"preset": "identity"})
    made = manifest(pipeline.run("train-dit", conditioning="attributes", **{**SHORT, "train__images": 8}).directory)
    assert made["facts"]["conditioning"]["kind"] == "attributes" and "labels" in made["inputs"]


def test_other_models_take_no_values_and_other_families_no_labels_of_several(trained: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not attributes"):
        trained.run("train-denoiser", model={"preset": "unet-mnist"}, **SHORT)
    copy = trained.copy(tmp_path)
    shutil.rmtree(copy.folder / "dit")
    copy.run("train-dit", conditioning="none", **{**SHORT, "train__images": 8})
    with pytest.raises(ConfigError, match="values"):
        copy.run("sample", num=1, values=("age=15",), cfg=1.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,labels\na.png,cat\n", "does not say anything of"),
        ("labels\ncat\n", "columns"),
        ("file,labels,age\nblue/000.png,cat,old\n", "line 2: age is 'old'"),
        ("file,labels,age\nblue/000.png,cat,nan\n", "not a number"),
        ("file,labels\nblue/000.png\n", "cells for 2 columns"),
        ("file,labels\nblue/000.png,cat\nblue/000.png,dog\n", "second of"),
        ('file,labels\nblue/000.png,"cat,dog"\n', "no name of a label"),
        ('file,labels\n"blue/000.png,cat\n', "not CSV"),
        ("file\n", "0 labels|anything of"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_line(text: str, said: str, tmp_path: Path, trained: Pipeline) -> None:
    copy = trained.copy(tmp_path / "runs")
    images = shutil.copytree(trained.images, tmp_path / "squares")
    (images / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        copy.run("encode", replace=True, conditioning="attributes", data={"source": str(images)})


def test_images_of_one_name_in_two_folders_have_what_the_file_of_their_own_says(tmp_path: Path) -> None:
    names = ["blue/000.png", "blue/001.png"]
    for part in ("train", "val"):
        write_squares(tmp_path / part, per_class=2, names=("blue",))

    def read(train: str, val: str) -> Attributes:
        for part, label in (("train", train), ("val", val)):
            lines = [f"{name},{label},{number}" for number, name in enumerate(names)]
            (tmp_path / part / "labels.csv").write_text("\n".join(["file,labels,age", *lines]))
        images = image_sources(Data(source=str(tmp_path / "train"), validation=str(tmp_path / "val")))
        return Attributes(images, None, torch.device("cpu"))

    made = read("cat", "dog")
    made_of = made.conditioning(made.images.train, made.images.val)
    for part, expected in ((made.images.train, [1, 0, 1]), (made.images.val, [0, 1, 1])):
        assert made.fields(made_of, part)([1])[0][0][STORED].tolist() == expected
    assert len({made.fingerprint, read("cat", "cat").fingerprint, read("dog", "cat").fingerprint}) == 3
    same = [[name, ["cat"], {"age": float(number)}] for number, name in enumerate(names)]
    assert read("cat", "cat").fingerprint == sha256_json(same), "as that of one folder, and of earlier runs"


def test_numbers_are_known_by_the_names_of_their_columns_in_any_order(tmp_path: Path) -> None:
    write_squares(tmp_path / "squares", per_class=4, names=("blue", "green"))
    blue, green = (tmp_path / "squares" / name / "labels.csv" for name in ("blue", "green"))
    blue.write_text("file,age,height\n" + "".join(f"{number:03d}.png,{number},{100 + number}\n" for number in range(4)))
    green.write_text(
        "file,height,age\n" + "".join(f"{number:03d}.png,{104 + number},{4 + number}\n" for number in range(4))
    )
    images = image_sources(Data(source=str(tmp_path / "squares"), val_fraction=0.25))
    made = Attributes(images, None, torch.device("cpu"))
    conditioning = made.conditioning(images.train, images.val)
    stored = [fields[STORED] for fields, _ in made.fields(conditioning, images.train)(range(len(images.train)))]
    assert made.names_of_numbers == ("age", "height") and all(height - age == 100 for age, height in stored)

    green.write_text("file,height\n" + "".join(f"{number:03d}.png,{number}\n" for number in range(4)))
    with pytest.raises(DataError, match=r"squares: .*green/00\d\.png has height, and blue/00\d\.png has age, height"):
        Attributes(images, None, torch.device("cpu"))


def test_requests_become_scalars_within_the_range_of_training() -> None:
    asked = CONDITIONING.request({"classes": "out_door,cat", "values": ["age=20"]})
    assert [float(value) for value in asked.cond.values()] == [1, 0, 1, 0.5]
    assert asked.titles == ("cat, out door, age 20",) and CONDITIONING.recall(asked.records[0]) == {
        "classes": "cat,out door",
        "values": ["age=20.0"],
    }
    age = CONDITIONING.fields[3]
    assert float(CONDITIONING.request({"classes": "dog"}).cond[age]) == pytest.approx(0.4), "the mean"
    assert CONDITIONING.groups().titles == ("cat", "dog", "out door")
    assert CONDITIONING.null(2, torch.device("cpu"))[age].tolist() == [-1, -1]
    for values in (["age=100"], ["size=1"], ["age=x"], ["age"]):
        with pytest.raises(ConfigError, match="values="):
            CONDITIONING.request({"values": values})
    assert rebuilt(CONDITIONING.describe()) == CONDITIONING


def test_a_label_keeps_its_weights_in_a_network_of_other_labels() -> None:
    other = AttributeConditioning(("dog", "eel"), (Number("age", 0, 1, 0.5), Number("dog", 0, 1, 0.5)))
    assert set(other.fields) & set(CONDITIONING.fields) == {CONDITIONING.fields[1], CONDITIONING.fields[3]}
    assert len({*other.fields}) == 4
