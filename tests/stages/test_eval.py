"""`ldm eval` on the smallest run: what is compared with what, and under which conditions."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from ldm.core.errors import ConfigError, DataError
from ldm.core.images.sources import open_splits
from ldm.core.runs.run import MANIFEST
from ldm.core.settings.fields import RESERVED_LABELS
from ldm.stages.eval import likelihood, reconstructions
from ldm.stages.eval.reconstructions import shown_ranks
from tests.support.forgery import write_manifest
from tests.support.pipeline_run import Heard, Pipeline, manifest, pngs, write_squares


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_eval_writes_numbers_with_their_conditions(trained: Pipeline) -> None:
    samples = trained.run("sample", num=8, label="evaluated").directory
    folder = trained.run("eval", samples="evaluated").directory
    document = json.loads((folder / "metrics.json").read_text())
    for number in ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage"):
        assert f"{number}[classifier]" in document["numbers"]
        assert f"{number}[classifier]" in document["real_against_real"]
    conditions = document["conditions"]
    assert conditions["n_samples"] == len(pngs(samples)) == 24
    assert conditions["sampling"]["steps"] == 3
    assert conditions["sampling"]["cfg"] == 3
    assert conditions["weights_sha256"]


def test_images_that_are_others_than_those_trained_on_are_reported_by_an_evaluation(copied: Pipeline) -> None:
    recorded = json.loads((copied.folder / "latents" / MANIFEST).read_text())
    recorded["inputs"]["data"]["fingerprint"] = "0" * 64
    write_manifest(copied.folder / "latents", recorded)
    copied.run("sample", num=4, label="some")
    heard = Heard()
    copied.run("eval", heard, samples="some")
    assert [warning for warning in heard.warnings if "are others than when" in warning and "latents" in warning]


def test_held_out_real_images_are_read_beside_the_samples_over_all_and_by_class(trained: Pipeline) -> None:
    """The split of the run's own images: a quarter of 3 x 40 held out, about; each of them is read exactly once."""
    trained.run("sample", num=8, label="read")
    folder = trained.run("eval", samples="read").directory
    document = metrics(folder)
    by_class, name = document["classes"], "class_accuracy[classifier]"
    held_out = [row["held_out"] for row in by_class.values()]
    count = sum(row["images"] for row in held_out)
    (seen,) = trained.run("train-classifier").directory.glob("final/config.json")
    assert list(by_class) == ["blue", "green", "red"]
    assert document["conditions"]["n_held_out"] == count == 120 - document["conditions"]["n_reference"]
    right = sum(row["accuracy"] * row["images"] for row in held_out)
    assert document["real_against_real"][name] == pytest.approx(right / count)
    assert document["real_against_real"][name] == json.loads(seen.read_text())["extra"]["accuracy"]
    samples = [row["samples"] for row in by_class.values()]
    assert document["numbers"][name] == pytest.approx(sum(row["accuracy"] * 8 for row in samples) / 24)
    height, width, _ = np.array(Image.open(folder / "confusion.png")).shape
    assert width > 1.8 * height, "two matrices stand side by side"


def test_of_samples_of_one_class_the_held_out_images_of_that_class_are_read(trained: Pipeline) -> None:
    trained.run("sample", num=12, classes="red", label="reds")
    document = metrics(trained.run("eval", samples="reds").directory)
    assert list(document["classes"]) == ["red"]
    assert document["conditions"]["n_held_out"] == document["classes"]["red"]["held_out"]["images"] < 20


def test_a_classifier_that_reads_few_held_out_images_is_warned_of_where_it_is_trained_and_used(
    copied: Pipeline,
) -> None:
    warned = "of held-out real images as their class, fewer than 80%"
    shutil.rmtree(copied.folder / "classifier")
    taught, used, measured = Heard(), Heard(), Heard()
    copied.run("train-classifier", taught, train__images=8, train__lr=1e-9)
    copied.run("sample", num=8, label="weak")
    copied.run("eval", used, samples="weak")
    copied.run("train-dit", measured, replace=True, train__images=16, metrics__every=16, metrics__num=12)
    for heard in (taught, used, measured):
        assert sum(warned in warning for warning in heard.warnings) == 1, heard.warnings


def test_a_good_classifier_is_not_warned_of(trained: Pipeline) -> None:
    trained.run("sample", num=8, label="good")
    heard = Heard()
    trained.run("eval", heard, samples="good")
    assert not heard.warnings


def test_without_the_runs_images_numbers_of_held_out_ones_are_left_out_and_that_is_said(
    copied: Pipeline, tmp_path: Path
) -> None:
    elsewhere = shutil.copytree(copied.images, tmp_path / "moved")
    copied.run("sample", num=8, label="alone")
    heard = Heard()
    shutil.move(copied.images, tmp_path / "away")
    try:
        document = metrics(copied.run("eval", heard, samples="alone", reference=str(elsewhere)).directory)
    finally:
        shutil.move(tmp_path / "away", copied.images)
    assert "n_held_out" not in document["conditions"] and "class_accuracy[classifier]" in document["numbers"]
    assert any("no numbers of held-out images" in note for note in heard.notes)


def test_samples_are_compared_with_the_images_of_their_latents_not_with_those_of_the_autoencoder(
    trained: Pipeline, tmp_path: Path
) -> None:
    """In an evaluation, in one of strange images, and in a training's metrics."""
    other = Pipeline(tmp_path / "runs", write_squares(tmp_path / "others", names=("blue", "red")))
    encoded = other.run("encode", autoencoder=trained.folder / "vqvae", data__source=str(other.images)).directory
    measured = {"metrics__every": 64, "metrics__num": 10, "metrics__features": "classifier"}
    weights = trained.folder / "classifier" / "final"
    denoiser = other.run("train-dit", **measured, metrics__weights=weights).directory
    other.run("sample", num=8)
    expected = open_splits(str(other.images), val_fraction=0.25)[0].fingerprint()
    for given in ({}, {"samples": str(trained.images)}):
        made = manifest(other.run("eval", features="classifier", weights=weights, **given).directory)
        assert made["inputs"]["reference"]["fingerprint"] == expected
        assert made["inputs"]["reference"]["path"] == f"{other.images} (training images)"
    assert manifest(encoded)["inputs"]["data"]["path"] == str(other.images)
    last = json.loads((denoiser / "metrics.jsonl").read_text().splitlines()[-1])
    assert "frechet_distance[classifier]" in last


def test_eval_of_the_reference_itself_has_no_distance_and_full_accuracy(trained: Pipeline) -> None:
    folder = trained.run("eval", samples=str(trained.images), reference=str(trained.images)).directory
    numbers = json.loads((folder / "metrics.json").read_text())["numbers"]
    assert numbers["frechet_distance[classifier]"] < 1e-6
    assert numbers["precision[classifier]"] == numbers["recall[classifier]"] == 1
    assert numbers["class_accuracy[classifier]"] > 0.9
    assert numbers["nearest_ratio[classifier]"] < 0.05  # remembered, not drawn
    picture = np.array(Image.open(folder / "nearest.png"))
    assert picture.shape[1] > 6 * 60


def test_saved_statistics_serve_as_a_reference(trained: Pipeline) -> None:
    trained.run("sample", num=8, label="first")
    trained.run("sample", num=8, seed=99, label="second")
    saved = trained.run("eval", samples="first").directory
    direct = trained.run("eval", samples="second").directory / "metrics.json"
    expected = json.loads(direct.read_text())["numbers"]["frechet_distance[classifier]"]
    again = trained.run("eval", samples="second", reference=str(saved), replace=True).directory / "metrics.json"
    assert json.loads(again.read_text())["numbers"]["frechet_distance[classifier]"] == pytest.approx(expected, rel=1e-9)


def test_what_saved_statistics_cannot_be_compared_with_is_refused(trained: Pipeline) -> None:
    trained.run("sample", num=8, label="plenty")
    trained.run("sample", num=1, classes="0", label="single")
    saved = str(trained.run("eval", samples="plenty").directory)
    with pytest.raises(DataError, match="1 image is too few"):
        trained.run("eval", samples="single", reference=saved)
    with pytest.raises(ConfigError, match=r"reference=.* is saved statistics, but reconstructions need images"):
        trained.run("eval", of="reconstructions", reference=saved, replace=True)


@pytest.mark.parametrize("label", ["../dit", "/tmp/x", "a/b", "..", "", *RESERVED_LABELS])
def test_a_label_that_leads_elsewhere_is_refused(trained: Pipeline, label: str) -> None:
    with pytest.raises(ValidationError, match=r"label\n.*must "):
        trained.config("sample", label=label)


def test_the_names_that_eval_has_of_its_own_are_those_refused() -> None:
    assert set(RESERVED_LABELS) == {likelihood.LABEL, reconstructions.LABEL}


def test_a_schedule_of_fewer_steps_than_a_sampler_takes_is_sampled_in_all_of_them(
    trained: Pipeline, tmp_path: Path
) -> None:
    run = Pipeline(tmp_path, trained.images)
    run.run("train-dit", latents=trained.folder / "latents", diffusion__num_steps=4, train__images=16)
    for sampler in ("ddim", "ddpm"):
        made = run.run("sample", num=1, classes="0", sampler=sampler, steps=None, label=sampler).directory
        assert json.loads((made / MANIFEST).read_text())["facts"]["sampling"]["steps"] == 4
    with pytest.raises(ConfigError, match="steps=5` is outside"):
        run.run("sample", num=1, classes="0", steps=5)


def test_eval_of_reconstructions_measures_each_image(trained: Pipeline) -> None:
    folder = trained.run("eval", of="reconstructions").directory
    document = json.loads((folder / "metrics.json").read_text())
    assert 5 < document["numbers"]["psnr"] < 60
    assert "ssim" in document["numbers"]
    assert (folder / "reconstructions.png").exists()


def test_reconstructions_of_another_size_are_measured_beside_those_of_the_trainings(trained: Pipeline) -> None:
    larger = trained.run("eval", of="reconstructions", image_size=24).directory
    assert larger.name == "reconstructions-24" and 5 < metrics(larger)["numbers"]["psnr"] < 60
    usual = trained.run("eval", of="reconstructions").directory
    assert metrics(usual)["numbers"]["psnr"] != metrics(larger)["numbers"]["psnr"]
    with pytest.raises(ConfigError, match="image_size=17` is not a multiple"):
        trained.run("eval", of="reconstructions", image_size=17)
    with pytest.raises(ValidationError, match="is for `of=reconstructions`"):
        trained.config("eval", image_size=24)


def test_the_limit_holds_on_either_side(trained: Pipeline) -> None:
    trained.run("sample", num=8, label="limited")
    conditions = metrics(trained.run("eval", samples="limited", limit=21).directory)["conditions"]
    assert (conditions["n_samples"], conditions["n_reference"]) == (21, 21)


def test_the_seed_of_eval_is_that_of_its_draws(trained: Pipeline) -> None:
    trained.run("sample", num=8, label="seeded")
    numbers = [metrics(trained.run("eval", samples="seeded", seed=seed, replace=True).directory) for seed in (0, 1)]
    assert numbers[0]["conditions"]["seed"] == 0
    assert numbers[1]["conditions"]["seed"] == 1
    assert numbers[0]["real_against_real"] != numbers[1]["real_against_real"]
    assert numbers[0]["numbers"]["precision[classifier]"] == numbers[1]["numbers"]["precision[classifier]"]


def test_classes_that_the_extractor_does_not_know_cost_the_accuracy_alone(trained: Pipeline, tmp_path: Path) -> None:
    for name, stranger in (("blue", "sea"), ("green", "wood"), ("red", "fire")):
        shutil.copytree(trained.images / name, tmp_path / "strange" / stranger)
    heard = Heard()
    folder = trained.run("eval", heard, samples=str(tmp_path / "strange"), reference=str(trained.images)).directory
    numbers = metrics(folder)["numbers"]
    assert numbers["frechet_distance[classifier]"] < 1e-6
    assert not [name for name in numbers if name.startswith("class_accuracy")]
    assert any("class 'fire' matches no class" in warning for warning in heard.warnings)


def test_unfinished_samples_are_refused(copied: Pipeline) -> None:
    folder = copied.run("sample", num=8, label="half").directory
    (folder / MANIFEST).unlink()
    with pytest.raises(DataError, match="half is unfinished"):
        copied.run("eval", samples="half")


def test_samples_of_a_denoiser_that_was_trained_anew_are_refused(copied: Pipeline) -> None:
    copied.run("sample", num=8, label="old")
    copied.run("train-dit", seed=1, replace=True)
    with pytest.raises(DataError, match="old was made with another denoiser"):
        copied.run("eval", samples="old")


def test_no_image_is_shown_twice_among_few_reconstructions() -> None:
    assert shown_ranks(30).tolist() == [0, 1, 2, 3, 13, 14, 15, 16, 26, 27, 28, 29]
    for total in (1, 3, 5, 10):
        assert shown_ranks(total).tolist() == sorted(set(shown_ranks(total).tolist()))
    assert shown_ranks(3).tolist() == [0, 1, 2]
