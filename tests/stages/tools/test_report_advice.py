"""What `ldm report` advises from a run's numbers: each piece of advice where its numbers are, and nowhere else."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ldm.cli import main
from ldm.core.progress import Silent
from ldm.core.runs.run import StageRun
from ldm.stages.configs.report import Report
from ldm.stages.tools import report, summary
from ldm.stages.tools.reporting.advice import advice, risen_since, still_falling
from ldm.stages.tools.reporting.page import Gap
from ldm.stages.tools.summary import Evaluation, Summary
from tests.support.pipeline_run import Pipeline, manifest

FALLING = [(0, 1.0), (100, 0.8), (200, 0.7), (300, 0.6), (400, 0.5)]
LEVEL = [(0, 1.0), (100, 0.52), (200, 0.505), (300, 0.501), (400, 0.5)]
RISEN = [(0, 1.0), (100, 0.5), (200, 0.4), (300, 0.5), (400, 0.6)]


def test_a_loss_that_fell_in_its_last_quarter_is_reported_from_one_that_levelled_off_or_rose() -> None:
    assert [still_falling(curve) for curve in (FALLING, LEVEL, RISEN, FALLING[:3])] == [True, False, False, False]
    assert [risen_since(curve) for curve in (FALLING, LEVEL, RISEN)] == [None, None, 200]
    assert risen_since([*LEVEL, (500, 0.7)]) is None, "one point is no rise"


@pytest.fixture(scope="module")
def evaluated(trained: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    pipeline = trained.copy(tmp_path_factory.mktemp("advice"))
    pipeline.run("sample", num=8, label="some")
    pipeline.run("eval", samples="some")
    return pipeline


def of(pipeline: Pipeline, change: Callable[[Summary], Summary] = lambda run: run) -> list[Gap]:
    config = Report.model_validate({"name": pipeline.name, "runs_dir": pipeline.runs_dir})
    return [*advice(config, change(summary.read(pipeline.folder, pytest.fail)))]


def with_metadata(role: str, **values: Any) -> Callable[[Summary], Summary]:
    def change(run: Summary) -> Summary:
        stage = run.stages[role]
        metadata = {**stage.metadata, **values}
        changed: StageRun = replace(stage, manifest={**stage.manifest, "facts": metadata})
        return replace(run, stages={**run.stages, role: changed})

    return change


def with_document(**values: Any) -> Callable[[Summary], Summary]:
    def change(run: Summary) -> Summary:
        (one,) = run.evaluations
        return replace(run, evaluations=[Evaluation(one.run, {**one.document, **values})])

    return change


def one_of(found: list[Gap], words: str) -> Gap:
    (gap,) = [gap for gap in found if words in gap.what]
    return gap


def test_a_denoiser_whose_loss_still_fell_is_trained_on_in_a_run_of_its_own(
    evaluated: Pipeline, tmp_path: Path
) -> None:
    pipeline = evaluated.copy(tmp_path)
    lines = [json.dumps({"images": images, "step": images, "val_loss": loss}) for images, loss in FALLING]
    (pipeline.folder / "dit" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    gap = one_of(of(pipeline), "Denoiser: the validation loss still fell")
    before = sorted(pipeline.folder.rglob("*"))
    assert main.run([*shlex.split(gap.command)[1:], "--quiet", "--images", "16"]) == 0
    assert (pipeline.runs_dir / f"{pipeline.name}-longer" / "dit" / "manifest.json").is_file()
    assert sorted(pipeline.folder.rglob("*")) == before


def test_a_denoiser_that_learned_its_images_by_heart_is_named_with_the_best_number_of_images(
    evaluated: Pipeline, tmp_path: Path
) -> None:
    pipeline = evaluated.copy(tmp_path)
    overfitted = [(images, 0.4 + images / 1000) for images in range(0, 500, 100)]
    for curve, said in ((RISEN, "train on 200 images only"), (overfitted, "least at the start")):
        lines = [json.dumps({"images": images, "step": images, "val_loss": loss}) for images, loss in curve]
        (pipeline.folder / "dit" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        gap = one_of(of(pipeline), "has risen since")
        assert said in gap.what and "crops of them" in gap.what
    # The command encodes crops in a run of its own; a training that has them is not advised to.
    before = sorted(pipeline.folder.rglob("*"))
    assert main.run([*shlex.split(gap.command)[1:], "--quiet"]) == 0
    cropped = Pipeline(pipeline.runs_dir, pipeline.images, f"{pipeline.name}-crops")
    assert manifest(cropped.folder / "latents")["config"]["crops"] == 4
    assert sorted(pipeline.folder.rglob("*")) == before
    has_crops = with_metadata("latents", fields={"npy": {}, "crop.npy": {}})
    assert "crops" not in one_of(of(pipeline, has_crops), "has risen since").what


def test_a_weak_classifier_is_trained_longer_by_the_command_given(evaluated: Pipeline) -> None:
    gap = one_of(of(evaluated, with_metadata("classifier", accuracy=0.56)), "56.0% of held-out real images")
    words = shlex.split(gap.command)
    assert words[1] == "train-classifier" and words[-3:] == ["--images", "256", "--replace"]
    assert not [each for each in of(evaluated, with_metadata("classifier", accuracy=0.9)) if "classifier" in each.what]


def test_a_class_of_which_no_sample_is_read_is_laid_to_the_denoiser_or_to_the_classifier(evaluated: Pipeline) -> None:
    def row(samples: float, held_out: float) -> dict[str, Any]:
        return {
            "samples": {"images": 8, "accuracy": samples},
            "held_out": {"images": 9, "accuracy": held_out},
        }

    classes = {"blue": row(0.0, 0.9), "green": row(0.0, 0.1), "red": row(0.5, 0.9)}
    found = of(evaluated, with_document(classes=classes))
    assert "no sample of blue is" in one_of(found, "though real images are").what
    assert "no sample of green is" in one_of(found, "may not know it").what
    assert not [
        each for each in of(evaluated, with_document(classes={"red": row(0.5, 0.9)})) if "no sample" in each.what
    ]


def test_samples_nearer_to_the_reference_than_real_images_may_be_copies(evaluated: Pipeline) -> None:
    name = "nearest_ratio[classifier]"
    near = with_document(numbers={name: 0.2}, real_against_real={name: 1.0}, classes={})
    far = with_document(numbers={name: 0.8}, real_against_real={name: 1.0}, classes={})
    assert one_of(of(evaluated, near), "copies") and not [each for each in of(evaluated, far) if "copies" in each.what]
    rebuilt = with_document(of="reconstructions", numbers={name: 0.2}, real_against_real={name: 1.0}, classes={})
    assert not [each for each in of(evaluated, rebuilt) if "copies" in each.what], "as near as they can be"


def test_few_images_of_a_class_and_a_generator_without_ema_are_named(evaluated: Pipeline, tmp_path: Path) -> None:
    assert "red 30" in one_of(of(evaluated, with_metadata("latents", class_counts=[300, 300, 30])), "Few images").what
    assert not [each for each in of(evaluated, with_metadata("latents", class_counts=[300] * 3)) if "Few" in each.what]

    def without_ema(run: Summary) -> Summary:
        stage = run.stages["denoiser"]
        config = {**stage.config, "train": {**stage.config["train"], "ema": 0.0}}
        changed = replace(stage, manifest={**stage.manifest, "config": config})
        return replace(run, stages={**run.stages, "denoiser": changed})

    assert one_of(of(evaluated, without_ema), "without an EMA")
    assert not [each for each in of(evaluated) if "EMA" in each.what]


def test_advice_stands_on_the_page_with_its_command(evaluated: Pipeline, tmp_path: Path) -> None:
    pipeline = evaluated.copy(tmp_path)
    lines = [json.dumps({"images": images, "step": images, "val_loss": loss}) for images, loss in FALLING]
    (pipeline.folder / "dit" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    config = Report.model_validate({"name": pipeline.name, "runs_dir": pipeline.runs_dir})
    report.run(config, Silent())
    html = (pipeline.folder / "report.html").read_text()
    chapter = html.partition("<h2>What the numbers advise</h2>")[2].partition("</section>")[0]
    assert "validation loss still fell" in chapter and "<span>--start-from</span>" in chapter
