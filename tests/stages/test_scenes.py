"""A model of the built-in scenes draws their prompts, and is measured by what its images show."""

import json
from pathlib import Path

import numpy as np
import pytest

from ldm.cli import sweep
from ldm.core.conditioning.captions import SyntheticShare
from ldm.core.conditioning.scenes import CATEGORIES, prompts
from ldm.core.conditioning.text import TextConditioning, mixed
from ldm.core.errors import DataError
from ldm.core.pipeline.training_data import training_data
from ldm.core.progress import Silent
from ldm.core.system.precision import resolve
from ldm.stages.configs.report import Report
from ldm.stages.configs.sweep import Sweep
from ldm.stages.tools import report
from tests.support.pipeline_run import Heard, Pipeline, manifest

NUMBERS = {f"{name.replace(' ', '_')}[scenes]" for name in (*CATEGORIES, "overall")}

NETWORK = {"preset": "dit-cross-xs", "width": 32, "heads": 2, "depth": 1, "patch_size": 8, "text_width": 32}
WANTED = {"model": NETWORK, "train__images": 32, "preview__every": 0}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run on few scenes, whose denoiser has drawn the prompts of the evaluation."""
    pipeline = Pipeline(tmp_path_factory.mktemp("scenes"), Path("scenes:48"))
    pipeline.run("train-autoencoder", model={"preset": "identity"}, data__image_size=32, data__flip=False)
    pipeline.run("train-denoiser", **WANTED)
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


def test_a_training_reads_detailed_captions_first_and_then_its_share_of_them(drawn: Pipeline) -> None:
    data = training_data(None, drawn.config("train-denoiser"), resolve("cpu", "fp32"), 0.1)
    train, count = data.read(resolve("cpu", "fp32"), Silent()).train, 400
    assert isinstance(data.conditioning, TextConditioning) and data.conditioning.share == SyntheticShare(0.5)
    positions = np.arange(count)
    # Of samples whose captions are of different lengths, so that these say which one was read.
    every = np.arange(len(train))
    both = [train.conditioned(mixed(data.conditioning, share, 0, 0)).cond(every, every, 0)["mask"] for share in (0, 1)]
    rows = np.resize(np.flatnonzero((both[0] != both[1]).any(1).numpy()), count)

    def longest(share: float | None, first: int, falling: int = 0) -> np.ndarray:
        cond = train.conditioned(mixed(data.conditioning, share, first, falling)).cond(rows, positions, 0)
        return cond["mask"].sum(1).numpy()

    detailed, short = longest(1, 0), longest(0, 0)
    assert (detailed > short).all()
    after = longest(0, 100)
    assert (after[:100] == detailed[:100]).all() and (after[100:] == short[100:]).all(), "by position"
    half = longest(None, 100)
    assert (half[:100] == detailed[:100]).all()
    assert 0.4 < (half[100:] == detailed[100:]).mean() < 0.6, "then the share of the latents"
    assert (longest(None, 0) == train.cond(rows, positions, 0)["mask"].sum(1).numpy()).all()
    assert 0.15 < (longest(0.2, 0) == detailed).mean() < 0.25
    falling = longest(0, 100, 200)
    assert (falling[:100] == detailed[:100]).all() and (falling[300:] == short[300:]).all()
    assert (falling[100:200] == detailed[100:200]).mean() > 0.6 > 0.4 > (falling[200:300] == detailed[200:300]).mean()


def test_the_share_of_synthetic_captions_falls_evenly() -> None:
    share = SyntheticShare(0.2, first=4, falling=3)
    assert share.at(np.arange(9)) == pytest.approx([1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2])
    assert SyntheticShare(0.3).at(np.arange(3)) == pytest.approx([0.3] * 3)
    assert SyntheticShare(0, first=2).at(np.arange(4)) == pytest.approx([1, 1, 0, 0])


def test_what_captions_come_first_changes_the_training_and_no_held_out_loss(drawn: Pipeline, tmp_path: Path) -> None:
    def losses(name: str, **settings: object) -> tuple[list[float], list[float]]:
        other = drawn.copy(tmp_path / name)
        wanted = {**WANTED, "train__images": 64, "train__log_every": 8, "train__validate_every": 64, **settings}
        # A network begins without regard to captions: at this rate they matter within a few steps.
        other.run("train-denoiser", replace=True, train__lr=1e-2, train__warmup=0, **wanted)
        lines = [json.loads(line) for line in (other.folder / "denoiser/metrics.jsonl").read_text().splitlines()]
        return [each["loss"] for each in lines if "loss" in each], [v["val_loss"] for v in lines if "val_loss" in v]

    plain, detailed, first = losses("a"), losses("b", synthetic_share=1), losses("c", synthetic_first="48")
    assert len(plain[0]) == 8 and plain[0][0] == detailed[0][0]
    assert first[0][:6] == detailed[0][:6] != plain[0][:6] and first[0][6:] != detailed[0][6:]
    assert plain[1][0] == detailed[1][0] == first[1][0], "held-out captions are the same before the first step"
