"""`ldm eval` on the smallest run: what is compared with what, and under which conditions."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from ldm.core.errors import ConfigError, DataError
from ldm.core.runs.run import MANIFEST
from ldm.core.settings.fields import RESERVED_LABELS
from ldm.stages.eval import likelihood, reconstructions
from ldm.stages.eval.reconstructions import shown_ranks
from tests.support.pipeline_run import Heard, Pipeline, pngs


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_eval_writes_numbers_with_their_conditions(trained: Pipeline) -> None:
    samples = trained.run("sample", num=8, label="judged").directory
    folder = trained.run("eval", samples="judged").directory
    document = json.loads((folder / "metrics.json").read_text())
    for number in ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage"):
        assert f"{number}[classifier]" in document["numbers"]
        assert f"{number}[classifier]" in document["real_against_real"]
    conditions = document["conditions"]
    assert conditions["n_samples"] == len(pngs(samples)) == 24
    assert conditions["sampling"]["steps"] == 3
    assert conditions["sampling"]["cfg"] == 3
    assert conditions["weights_sha256"]


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
