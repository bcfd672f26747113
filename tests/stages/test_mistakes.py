"""Mistakes a person makes: reported early, with what mends them, and at no cost to what was there."""

import os
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ldm.cli.main import run
from ldm.cli.refusals import with_recipe
from ldm.core.errors import ConfigError, DataError
from ldm.core.runs.lock import occupy
from ldm.core.runs.run import MANIFEST
from tests.support.pipeline_run import Heard, Pipeline, manifest, write_squares


@pytest.fixture
def photos(images: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(images, tmp_path / "photos"))


def test_a_refused_command_does_not_bind_the_next_one_to_its_settings(photos: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path / "runs", photos)
    (photos / "red" / "000.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"red/000\.png is empty"):
        pipeline.run("train-vqvae", seed=1)
    (photos / "red" / "000.png").unlink()
    assert manifest(pipeline.run("train-vqvae").directory)["config"]["seed"] == 0


@pytest.mark.parametrize(
    ("command", "mistake", "said"),
    [
        ("train-vqvae", {"data__image_size": 17}, "`data.image_size=17` is not a multiple of 4"),
        ("train-vqvae", {"autoencoder": Path("nowhere")}, "`autoencoder=nowhere` is not a folder"),
        ("train-dit", {"model__heads": 3}, r"model\.width 32 does not divide by 4 and by model\.heads 3"),
        ("sample", {"label": "kept", "steps": 1001}, "`steps=1001` is outside"),
        ("sample", {"label": "kept", "classes": "gren"}, "did you mean 'green'"),
    ],
)
def test_a_setting_that_cannot_be_honoured_is_reported_before_anything_is_read_or_discarded(
    copied: Pipeline, command: str, mistake: dict[str, Any], said: str
) -> None:
    copied.run("sample", num=1, label="kept")
    before = {path: path.stat().st_mtime_ns for path in copied.folder.rglob(MANIFEST)}
    heard = Heard()
    with pytest.raises(ConfigError, match=said):
        copied.run(command, heard, replace=True, **mistake)
    assert not heard.works
    assert {path: path.stat().st_mtime_ns for path in copied.folder.rglob(MANIFEST)} == before


def test_the_command_that_is_proposed_to_finish_a_stage_finishes_it(copied: Pipeline) -> None:
    (copied.folder / "vqvae" / MANIFEST).unlink()
    with pytest.raises(DataError, match="vqvae is unfinished") as caught:
        copied.run("encode")
    said = caught.value.remedy or ""
    assert said.startswith("finish it: ldm ")
    assert run([*shlex.split(said)[3:], "--quiet"]) == 0
    assert (copied.folder / "vqvae" / MANIFEST).exists()


def test_the_command_that_is_proposed_to_make_an_autoencoder_asks_for_images(tmp_path: Path, images: Path) -> None:
    with pytest.raises(DataError, match=r"make it: ldm train-vqvae .*--data FOLDER"):
        Pipeline(tmp_path, images).run("encode")


class HeardNotes(Heard):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_what_was_found_in_a_folder_is_said_before_it_is_decoded(photos: Path, tmp_path: Path) -> None:
    (photos / "red" / "notes.txt").touch()
    (photos / "red" / ".DS_Store").touch()
    (photos / "blue" / "zzz.png").write_bytes(b"broken")
    heard = HeardNotes()
    with pytest.raises(DataError, match=r"zzz\.png"):
        Pipeline(tmp_path / "runs", photos).run("train-vqvae", heard)
    assert heard.notes == [f"{photos}: 121 images of 3 classes: blue, green, red; ignored, as no images: red/notes.txt"]


def test_a_folder_without_class_folders_is_said_to_be_one_class(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    for level in (0, 90, 180, 250):
        Image.new("L", (16, 16), level).save(tmp_path / "flat" / f"{level}.png")
    heard = HeardNotes()
    Pipeline(tmp_path / "runs", tmp_path / "flat").run("train-vqvae", heard, data__val_fraction=0.5)
    assert heard.notes[0] == f"{tmp_path / 'flat'}: 4 images of one class (no folders)"


def test_captions_that_cannot_be_read_do_not_matter_to_an_autoencoder(photos: Path, tmp_path: Path) -> None:
    (photos / "captions.jsonl").write_bytes(b"\xff\xfe\x00")
    heard = Heard()
    Pipeline(tmp_path / "runs", photos).run("train-vqvae", heard)
    (tmp_path / "flat").mkdir()
    for path in (photos / "red").glob("*.png"):
        shutil.copy(path, tmp_path / "flat")
    shutil.copy(photos / "captions.jsonl", tmp_path / "flat")
    Pipeline(tmp_path / "runs2", tmp_path / "flat").run("train-vqvae", heard, data__val_fraction=0.5)


def test_too_few_samples_for_an_evaluation_are_reported_before_any_is_read(trained: Pipeline) -> None:
    trained.run("sample", num=1, label="too-few")
    heard = Heard()
    with pytest.raises(DataError, match="the samples: 3 images are too few"):
        trained.run("eval", heard, samples="too-few")
    assert not heard.works


def test_the_next_command_of_a_denoiser_without_a_null_class_asks_for_no_guidance(copied: Pipeline) -> None:
    assert copied.run("train-dit").next_commands[0].endswith("--class blue --cfg 3")
    changed = {"label_dropout": 0, "replace": True, "train__images": 8}
    assert copied.run("train-dit", **changed).next_commands[0].endswith("--class blue --cfg 1")


def test_seeds_beyond_the_last_one_are_refused_and_the_last_one_draws(trained: Pipeline) -> None:
    last = 2**63 - 1
    with pytest.raises(ConfigError, match=f"`seed={last}` is too large for 6 images"):
        trained.run("sample", num=2, label="beyond", seed=last)
    folder = trained.run("sample", num=1, label="last", seed=last, classes="red").directory
    assert (folder / f"{last}.png").is_file()


def test_images_that_changed_after_a_stage_are_reported_by_the_next_ones(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path / "runs", write_squares(tmp_path / "squares", per_class=12))
    pipeline.run("train-vqvae")
    edited, later = pipeline.images / "red" / "001.png", time.time() + 60
    Image.open(edited).rotate(90).save(edited)
    os.utime(edited, (later, later))
    for command in ("encode", "train-dit"):
        heard = Heard()
        pipeline.run(command, heard)
        (warning,) = [each for each in heard.warnings if "are others than when" in each]
        assert str(pipeline.images) in warning and "vqvae" in warning
        assert warning.endswith("; written since: red/001.png"), "the edited photo has a name"


def test_one_class_is_answered_with_what_to_measure_in_and_that_guidance_does_nothing_good(tmp_path: Path) -> None:
    images = write_squares(tmp_path / "squares", per_class=40, names=["red"])
    pipeline = Pipeline(tmp_path / "runs", images).through("train-vqvae", "encode", "train-dit")
    with pytest.raises(DataError, match="has one class") as refused:
        pipeline.run("train-classifier")
    assert "features=inception" in str(refused.value.remedy)
    heard = Heard()
    pipeline.run("sample", heard, num=2, label="s")
    assert any(note.startswith("one class: guidance at 3 is away") for note in heard.notes)
    with pytest.raises(DataError, match="has one class, and so no classifier to measure in") as refused:
        pipeline.run("eval", samples="s")
    assert "train-classifier" not in str(refused.value.remedy)


def test_a_recipe_stays_in_every_command_that_is_printed() -> None:
    line = "ldm train-dit --name mine"
    assert with_recipe(line, "my recipe.yaml") == "ldm train-dit -c 'my recipe.yaml' --name mine"
    assert with_recipe("make it: ldm encode --name mine", "r.yaml") == "make it: ldm encode -c r.yaml --name mine"
    assert with_recipe("ldm report --name mine", "r.yaml") == "ldm report --name mine", "takes no recipe"
    assert with_recipe(f"{line} -c runs/mine/dit/config.yaml", "r.yaml").count("-c") == 1
    assert with_recipe(line, None) == line


def test_the_recipe_s_own_preset_counts_in_commands_that_are_printed(tmp_path: Path) -> None:
    line, recipe = "ldm train-denoiser --name mine --preset mmdit-xs", tmp_path / "r.yaml"
    recipe.write_text("train-denoiser: {model: {preset: ldm-xs}}")
    assert with_recipe(line, str(recipe)) == f"ldm train-denoiser -c {recipe} --name mine"
    recipe.write_text("train-denoiser: {train: {images: 5k}}")
    assert with_recipe(line, str(recipe)) == f"ldm train-denoiser -c {recipe} --name mine --preset mmdit-xs"


def test_commands_that_are_printed_are_those_that_the_recipe_has_sections_for(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("train-autoencoder: {seed: 1}\ntrain-var: {seed: 1}\n")
    assert with_recipe("ldm train-dit --name mine", str(recipe)) == f"ldm train-var -c {recipe} --name mine"
    assert with_recipe("ldm train-vqvae", str(recipe)) == f"ldm train-autoencoder -c {recipe}"
    assert with_recipe("ldm encode --name mine", str(recipe)) == f"ldm encode -c {recipe} --name mine"
    assert with_recipe("ldm distill", str(recipe)) == f"ldm distill -c {recipe}", "which makes no pipeline's generator"


def test_an_unfinished_training_says_how_far_it_is_and_who_writes_it(copied: Pipeline) -> None:
    (copied.folder / "dit" / MANIFEST).unlink()
    with pytest.raises(DataError, match=r"dit is unfinished, after 64 images") as refused:
        copied.run("sample", label="s")
    assert str(refused.value.remedy).startswith("finish it: ldm ")
    with occupy(copied.folder / "dit"), pytest.raises(DataError) as refused:
        copied.run("sample", label="s")
    assert str(refused.value.remedy).startswith("wait for ") and str(os.getpid()) in str(refused.value.remedy)
    assert run(["report", "--runs-dir", str(copied.runs_dir), "--name", copied.name]) == 0
    assert "not finished, 64 of 64 images" in (copied.folder / "report.html").read_text()
