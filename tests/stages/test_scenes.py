"""A model of the built-in scenes draws their prompts, and is measured by what its images show."""

import json
from pathlib import Path

import pytest

from ldm.cli import sweep
from ldm.core.conditioning.scenes import CATEGORIES, prompts
from ldm.core.errors import DataError
from ldm.stages.configs.report import Report
from ldm.stages.configs.sweep import Sweep
from ldm.stages.tools import report
from tests.support.pipeline_run import Heard, Pipeline, manifest

NUMBERS = {f"{name.replace(' ', '_')}[scenes]" for name in (*CATEGORIES, "overall")}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run on few scenes, whose denoiser has drawn the prompts of the evaluation."""
    pipeline = Pipeline(tmp_path_factory.mktemp("scenes"), Path("scenes:48"))
    pipeline.run("train-autoencoder", model={"preset": "identity"}, data__image_size=32, data__flip=False)
    network = {"preset": "dit-cross-xs", "width": 32, "heads": 2, "depth": 1, "patch_size": 8, "text_width": 32}
    pipeline.run("train-denoiser", model=network, train__images=32, preview__every=0)
    pipeline.run("sample", prompts="scenes", num=1, steps=1, label="asked")
    return pipeline


def test_the_prompts_of_the_evaluation_are_drawn_and_recorded(drawn: Pipeline) -> None:
    images = manifest(drawn.folder / "samples" / "asked")["facts"]["images"]
    assert [image["prompt"] for image in images] == prompts()


def test_eval_says_how_many_images_show_what_was_asked_without_a_classifier(drawn: Pipeline) -> None:
    outcome = drawn.run("eval")
    written = json.loads((outcome.directory / "metrics.json").read_text())
    assert {*written["numbers"]} == {*written["real_against_real"]} == NUMBERS
    assert written["numbers"]["overall[scenes]"] < 0.2  # it has learned nothing yet
    assert written["real_against_real"]["overall[scenes]"] > 0.97
    assert outcome.summary["images"] == str(len(prompts()))
    assert drawn.run("eval").already_complete
    page = report.run(Report(name=drawn.name, runs_dir=drawn.runs_dir), Heard()).directory
    assert "colour_attribution[scenes]" in (page if page.is_file() else page / "report.html").read_text()


def test_a_few_of_the_samples_are_measured_where_a_limit_is_given(drawn: Pipeline) -> None:
    written = json.loads((drawn.run("eval", limit=20, replace=True).directory / "metrics.json").read_text())
    assert written["conditions"]["n_samples"] == 20 and {*written["numbers"]} <= NUMBERS


def test_prompts_of_other_texts_leave_nothing_to_measure(drawn: Pipeline) -> None:
    drawn.run("sample", prompt=("a horse",), num=1, steps=1, label="horse")
    with pytest.raises(DataError, match="classifier"):
        drawn.run("eval", samples="horse")


def test_guidance_scales_are_compared_by_what_images_show(drawn: Pipeline) -> None:
    config = Sweep(name=drawn.name, runs_dir=drawn.runs_dir, prompts="scenes", num=1, cfg=[1, 3], steps=[1])
    outcome = sweep.run(config, Heard())
    assert "overall" in outcome.summary[""] and "colour attribution" in outcome.summary[""]
    assert [row["overall[scenes]"] <= 0.2 for row in outcome.facts["rows"]] == [True, True]
    assert outcome.facts["real_against_real"]["overall[scenes]"] > 0.97
