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
from ldm.stages.table import STAGES
from ldm.stages.tools import inspect
from tests.support.pipeline_run import MACHINE, Pipeline, manifest, png_files, pngs, some_of


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
            (json.dumps({**good, "origins": {"image": {"name": "x"}}}), "damaged: origins"),
        ]
    ):
        with pytest.raises((DataError, ConfigError), match=match):
            again(drawn, written(tmp_path / f"{number}.png", text))
    (tmp_path / "no.png").write_bytes(b"no picture")
    for path in (tmp_path / "no.png", tmp_path, tmp_path / "missing.png"):
        with pytest.raises(DataError, match=str(path)):
            read_parameters(path)


def edited_again(pipeline: Pipeline, command: str, image: Path, **changes: Any) -> Path:
    """Draw an image of another command again."""
    stage = STAGES[command]
    place = {"name": pipeline.name, "runs_dir": pipeline.runs_dir, "machine": MACHINE}
    return stage.load().run(stage.settings.model_validate({**place, "like": image, **changes}), Silent()).directory


@pytest.mark.parametrize(
    "how",
    [
        {"strength": [0.25, 0.75], "classes": "red,blue", "num": 2, "seed": 5, "cfg": 2},
        {"strength": None, "box": [5, 4, 10, 8], "classes": "green", "resample": 2, "jump": 2, "feather": 1},
        {"inversion": True, "strength": [0.5], "from_class": "red", "classes": "blue"},
        {"strength": [0.5]},
    ],
    ids=["strengths", "box", "inversion", "no class"],
)
def test_an_edit_is_drawn_again_to_the_byte_from_what_it_carries_and_its_image(
    drawn: Pipeline, tmp_path: Path, how: dict[str, Any]
) -> None:
    images = some_of(drawn.images)
    made = drawn.run("edit", images=images, label="edited", replace=True, **how).directory
    for name in sorted(png_files(made))[-2:]:
        lone = Path(shutil.copy(made / name, tmp_path / "lone.png"))
        found = read_parameters(lone)
        entry = next(each for each in manifest(made)["facts"]["images"] if each["file"] == name)
        assert found.origins["image"].name == Path(entry["image"]).name and "/" not in found.origins["image"].name
        again = edited_again(drawn, "edit", lone, images=images, label="again", replace=True)
        assert lone.read_bytes() in png_files(again).values()
    assert inspect.run(Inspect(path=lone), Silent()).summary["made of the image"].startswith("000.png, sha256 ")


def test_an_edit_names_the_image_and_the_mask_that_it_lacks_and_takes_changes(drawn: Pipeline, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    Image.new("L", (9, 9), 255).save(mask)
    images = some_of(drawn.images)
    made = drawn.run("edit", images=images[:1], mask=mask, strength=None, classes="red", label="masked").directory
    edit = made / "000000-000.png"
    with pytest.raises(DataError, match=r"made of the image 000\.png \(sha256 [0-9a-f]{12}\), which is not given"):
        edited_again(drawn, "edit", edit, mask=mask)
    with pytest.raises(DataError, match="made of the image"):
        edited_again(drawn, "edit", edit, mask=mask, images=images[1:])
    with pytest.raises(DataError, match=r"made of the mask mask\.png"):
        edited_again(drawn, "edit", edit, images=images)
    again = edited_again(drawn, "edit", edit, images=images, mask=mask, label="again with a mask")
    assert [*png_files(again).values()] == [edit.read_bytes()]
    boxed = edited_again(drawn, "edit", edit, images=images, box=[5, 4, 10, 8], label="a box instead", num=2)
    assert len(pngs(boxed)) == 2 and read_parameters(boxed / "000000-000.png").settings["box"] == [5, 4, 10, 8]
    moved = edited_again(drawn, "edit", edit, images=images, mask=mask, start_index=[1], label="from elsewhere")
    assert read_parameters(moved / "000000-000.png").settings["strength"] == [0.75]


@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("anagram", {"classes": ["red", "blue"], "view": "rotate90", "space": "latents"}),
        ("hybrid", {"near": "red", "far": "green", "sigma": 3.0, "sampler": "ddpm"}),
        ("interpolate", {"classes": ["red", "blue"], "to_seed": 7, "frames": 3}),
        ("interpolate", {"classes": [], "to_seed": 7, "frames": 3}),
    ],
)
def test_an_image_of_two_conditions_is_drawn_again_to_the_byte(
    drawn: Pipeline, command: str, how: dict[str, Any]
) -> None:
    made = drawn.run(command, seed=3, label="some", replace=True, **how).directory
    image = made / "000001.png"
    again = edited_again(drawn, command, image, label="again", replace=True)
    assert image.read_bytes() in png_files(again).values()
    assert inspect.run(Inspect(path=image), Silent()).summary["drawn by"] == f"ldm {command}"
