"""Each image carries what it was drawn by: it is shown, and draws the image again to the byte."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from ldm.core.errors import ConfigError, DataError
from ldm.core.images.parameters import KEYWORD, read_parameters
from ldm.core.progress import Outcome, Silent
from ldm.stages import sample
from ldm.stages.configs import Sample
from ldm.stages.configs.folders import Inspect
from ldm.stages.tools import inspect
from tests.support.pipeline_run import MACHINE, Pipeline, manifest, png_files, pngs


@pytest.fixture(scope="module")
def drawn(trained: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run with guided samples of unusual settings; not to be changed."""
    pipeline = trained.copy(tmp_path_factory.mktemp("drawn"))
    pipeline.run("sample", num=2, cfg=2.5, cfg_interval=(0.2, 0.9), sampler="heun", steps=4, seed=11, label="some")
    return pipeline


def again(pipeline: Pipeline, image: Path, **changes: Any) -> Outcome:
    """Draw an image again with nothing but the changes given, as the command line does."""
    place = {"name": pipeline.name, "runs_dir": pipeline.runs_dir, "machine": MACHINE}
    return sample.run(Sample.model_validate({**place, "like": image, **changes}), Silent())


def test_an_image_carries_its_condition_seed_settings_and_the_fingerprint_of_its_model(drawn: Pipeline) -> None:
    folder = drawn.folder / "samples" / "some"
    recorded = manifest(folder)
    for entry in recorded["facts"]["images"]:
        found = read_parameters(folder / entry["file"])
        assert found.settings["seed"] == entry["seed"] and found.condition["label"] == entry["label"]
        assert found.settings["classes"] == entry["class"]
        assert found.model == {"denoiser": recorded["inputs"]["denoiser"]["fingerprint"]}
        assert found.settings["cfg_interval"] == [0.2, 0.9] and found.settings["steps"] == 4
    shown = inspect.run(Inspect(path=folder / "000013.png"), Silent())
    assert shown.summary["class"] == "green" and shown.summary["seed"] == "13" and shown.verdict == "is an image of ldm"


def test_what_it_carries_has_neither_times_nor_places(drawn: Pipeline) -> None:
    text = Image.open(drawn.folder / "samples" / "some" / "000011.png").info[KEYWORD]
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    for place in (str(drawn.runs_dir), drawn.name, "/"):
        assert place not in text


def test_an_image_is_drawn_again_to_the_byte_from_what_it_carries_alone(drawn: Pipeline, tmp_path: Path) -> None:
    for name in ("000011.png", "000014.png"):
        lone = shutil.copy(drawn.folder / "samples" / "some" / name, tmp_path / "elsewhere.png")
        folder = again(drawn, lone).directory
        assert png_files(folder) == {name: lone.read_bytes()}


def test_it_is_drawn_again_from_a_model_in_another_run_and_from_a_best_state(
    drawn: Pipeline, trained: Pipeline, tmp_path: Path
) -> None:
    copy = drawn.copy(tmp_path)
    (copy.runs_dir / copy.name).rename(copy.runs_dir / "renamed")
    lone = drawn.folder / "samples" / "some" / "000012.png"
    copy.name = "new"
    folder = again(copy, lone).directory
    assert png_files(folder)["000012.png"] == lone.read_bytes()
    assert folder.parent == copy.runs_dir / "new" / "samples"

    watched = trained.copy(tmp_path / "watched")
    measured = {"metrics__every": 32, "metrics__num": 12, "metrics__steps": 2, "preview__every": 0}
    watched.run("train-dit", replace=True, train__images=48, **measured)
    best = watched.run("sample", num=1, classes="red", checkpoint="best", label="best").directory
    shutil.copy(best / "000000.png", tmp_path / "best.png")
    shutil.rmtree(best)
    assert (
        png_files(again(watched, tmp_path / "best.png").directory)["000000.png"] == (tmp_path / "best.png").read_bytes()
    )


def test_settings_that_are_given_change_it_and_the_rest_stays(drawn: Pipeline) -> None:
    image = drawn.folder / "samples" / "some" / "000011.png"
    changed = again(drawn, image, cfg=1.0, seed=40, num=2).directory
    assert sorted(pngs(changed)) == ["000040.png", "000041.png"]
    found, before = read_parameters(changed / "000041.png"), read_parameters(image)
    assert found.settings == {**before.settings, "cfg": 1.0, "seed": 41}


def test_a_model_that_is_missing_is_named(drawn: Pipeline, tmp_path: Path) -> None:
    image = drawn.folder / "samples" / "some" / "000011.png"
    empty = Pipeline(tmp_path / "none", drawn.images)
    fingerprint = read_parameters(image).model["denoiser"]
    with pytest.raises(DataError, match=f"the denoiser {fingerprint[:12]}, which no run in .* holds"):
        again(empty, image)
    assert again(empty, image, denoiser=drawn.folder / "dit").directory.is_dir()  # its remedy


def test_no_metadata_leaves_the_plain_file_with_the_same_pixels(drawn: Pipeline) -> None:
    how = {"cfg": 2.5, "cfg_interval": (0.2, 0.9), "sampler": "heun", "steps": 4, "seed": 11, "num": 1}
    plain = drawn.run("sample", **how, classes="blue", metadata=False, label="plain").directory
    picture = Image.open(plain / "000011.png")
    assert not picture.info
    assert picture.tobytes() == Image.open(drawn.folder / "samples" / "some" / "000011.png").tobytes()
    with pytest.raises(DataError, match="carries no parameters"):
        again(drawn, plain / "000011.png")


def written(path: Path, text: str) -> Path:
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text(KEYWORD, text)
    Image.new("RGB", (4, 4)).save(path, pnginfo=chunk)
    return path


def test_parameters_of_others_choose_no_places_and_damaged_ones_are_named(drawn: Pipeline, tmp_path: Path) -> None:
    good = read_parameters(drawn.folder / "samples" / "some" / "000011.png").model_dump()
    outside = {
        **good,
        "settings": {**good["settings"], "label": "../up", "runs_dir": "/", "replace": True, "num": 10**9},
    }
    folder = again(drawn, written(tmp_path / "foreign.png", json.dumps(outside))).directory
    assert folder.parent == drawn.folder / "samples" and len(pngs(folder)) == 1
    for number, (text, match) in enumerate(
        [
            ("no JSON", "damaged"),
            ("[" * 10_000, "damaged"),
            (json.dumps({**good, "model": 3}), "damaged: model"),
            (json.dumps({**good, "settings": {"steps": "many"}}), "damaged: steps"),
            (json.dumps({**good, "command": "edit"}), "drawn by `ldm edit`"),
        ]
    ):
        with pytest.raises((DataError, ConfigError), match=match):
            again(drawn, written(tmp_path / f"{number}.png", text))
    (tmp_path / "no.png").write_bytes(b"no picture")
    for path in (tmp_path / "no.png", tmp_path, tmp_path / "missing.png"):
        with pytest.raises(DataError, match=str(path)):
            read_parameters(path)
