"""A training goes on to more images as if they had been asked for from the start, and ends when it stops improving."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ldm.core.errors import ConfigError, DataError, Stopped
from ldm.core.progress import Silent
from ldm.core.runs.metrics_log import CONDITIONS
from ldm.core.training.patience import Patience
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from tests.support.pipeline_run import Heard, Pipeline, Stopping, manifest

REGULAR = {"train__log_every": 16, "train__validate_every": 32, "train__checkpoint_every": 32, "preview__every": 32}


def weights(folder: Path) -> bytes:
    return (folder / "final" / "model.safetensors").read_bytes()


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in found]


@pytest.fixture(scope="module")
def straight(trained: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A training of 96 images in one go; not to be changed."""
    pipeline = trained.copy(tmp_path_factory.mktemp("straight"))
    pipeline.run("train-dit", replace=True, train__images=96, **REGULAR)
    return pipeline


def test_more_images_go_on_from_a_finished_training_to_the_bytes_of_one_in_one_go(
    copied: Pipeline, straight: Pipeline
) -> None:
    shutil.rmtree(copied.folder / "dit")
    copied.run("train-dit", train__images=64, **REGULAR)
    heard = Heard()
    folder = copied.run("train-dit", heard, train__images=96, **REGULAR).directory
    assert any("resuming after 64 images" in note for note in heard.notes)
    whole = straight.folder / "dit"
    assert weights(folder) == weights(whole) and lines(folder) == lines(whole)
    assert manifest(folder)["config"] == manifest(whole)["config"]
    assert manifest(folder)["facts"] == manifest(whole)["facts"]
    assert copied.run("train-dit", train__images=96, **REGULAR).already_complete
    assert verify.run(Verify(path=copied.folder), Silent()).verdict == "is whole"
    last = [(each / "checkpoints" / "0000000096" / "model.safetensors").read_bytes() for each in (folder, whole)]
    assert last[0] == last[1]


def test_more_images_go_on_from_an_odd_end_twice_and_through_a_stop(copied: Pipeline, straight: Pipeline) -> None:
    copied.run("train-dit", replace=True, train__images=24, **REGULAR)
    copied.run("train-dit", train__images=56, **REGULAR)

    with pytest.raises(Stopped):
        copied.run("train-dit", Stopping(80), train__images=96, **REGULAR)
    folder = copied.run("train-dit", train__images=96, **REGULAR).directory
    assert weights(folder) == weights(straight.folder / "dit")
    seen = {line["images"]: line["loss"] for line in lines(folder) if "loss" in line}
    assert {24, 56} <= seen.keys(), "where it ended before, it keeps its lines"
    regular = {line["images"]: line["loss"] for line in lines(straight.folder / "dit") if "loss" in line}
    assert all(seen[images] == regular[images] for images in (16, 48, 80, 96))


def test_an_autoencoder_goes_on_too_and_what_was_made_with_it_is_out_of_date(copied: Pipeline) -> None:
    whole = Pipeline(copied.runs_dir, copied.images, "whole").run("train-vqvae", train__images=80).directory
    folder = copied.run("train-vqvae", train__images=80).directory
    assert weights(folder) == weights(whole)
    with pytest.raises(DataError, match="is not whole: 2 problems"):
        verify.run(Verify(path=copied.folder), Silent())


def test_a_training_whose_rate_has_ended_goes_on_and_cools_down_to_the_bytes_of_one_in_one_go(copied: Pipeline) -> None:
    fallen = {"train__decay": "cosine", **REGULAR}
    longer = {**fallen, "train__images": 96, "train__decay_images": 32, "train__cooldown": 24}
    whole = Pipeline(copied.runs_dir, copied.images, "whole")
    shutil.copytree(copied.folder, whole.folder)
    straight = whole.run("train-dit", replace=True, **longer).directory
    copied.run("train-dit", replace=True, train__images=32, **fallen)
    with pytest.raises(ConfigError, match="was trained for 32 images") as refused:
        copied.run("train-dit", train__images=96, **fallen)
    assert "`train.decay_images=32` and `train.cooldown=12`; or begin another" in str(refused.value)

    with pytest.raises(Stopped):
        copied.run("train-dit", Stopping(80), **longer)
    folder = copied.run("train-dit", **longer).directory
    assert weights(folder) == weights(straight) and lines(folder) == lines(straight)
    assert manifest(folder)["config"]["train"]["cooldown"] == 24
    rates = {line["images"]: line["lr"] for line in lines(folder) if "lr" in line}
    assert max(rates.values()) == rates[80] > rates[96] > 0
    with pytest.raises(ConfigError, match="start_from") as ended:
        copied.run("train-dit", **{**longer, "train__images": 128})
    assert "decay_images" not in (ended.value.remedy or ""), "a rate that has cooled down does not rise again"


def test_a_constant_rate_may_cool_down_after_more_images(copied: Pipeline) -> None:
    cooled = {"train__images": 64, "train__cooldown": 32, **REGULAR}
    whole = Pipeline(copied.runs_dir, copied.images, "whole")
    shutil.copytree(copied.folder, whole.folder)
    straight = whole.run("train-dit", replace=True, **cooled).directory
    copied.run("train-dit", replace=True, train__images=32, **REGULAR)
    with pytest.raises(ConfigError, match=r"was trained for 32 images") as refused:
        copied.run("train-dit", **{**cooled, "train__cooldown": 48})
    assert "`train.cooldown=32`; or begin another" in str(refused.value)
    assert weights(copied.run("train-dit", **cooled).directory) == weights(straight)


def test_fewer_images_other_settings_and_a_rate_that_has_ended_are_refused_with_the_way_on(copied: Pipeline) -> None:
    copied.run("train-dit", replace=True, train__images=32)
    before = weights(copied.folder / "dit")
    with pytest.raises(ConfigError, match=r"train\.images: 32 → 16"):
        copied.run("train-dit", train__images=16)
    with pytest.raises(ConfigError, match="was made with other settings"):
        copied.run("train-dit", train__images=64, train__lr=2e-3)
    ended = copied.run("train-classifier", replace=True, train__images=32).directory
    with pytest.raises(ConfigError, match=r"would have differed from it before its end") as caught:
        copied.run("train-classifier", train__images=64)
    assert f"start_from={ended}" in str(caught.value)
    data = {"source": str(copied.images), "image_size": 16}
    other = Pipeline(copied.runs_dir, copied.images, "longer")
    started = other.run("train-classifier", train__images=32, start_from=ended, data=data)
    assert started.directory.is_dir(), "its remedy"
    shutil.rmtree(copied.folder / "dit" / "checkpoints")
    with pytest.raises(ConfigError, match="no checkpoint to go on from"):
        copied.run("train-dit", train__images=64)
    assert weights(copied.folder / "dit") == before and copied.run("train-dit", train__images=32).already_complete


def test_measured_samples_go_on_with_the_best_state_of_before(copied: Pipeline) -> None:
    measured = {"metrics__every": 32, "metrics__num": 12, "metrics__steps": 2, "preview__every": 0}
    copied.run("train-dit", replace=True, train__images=32, **measured)
    folder = copied.run("train-dit", train__images=64, **measured).directory
    scored = [line for line in lines(folder) if CONDITIONS in line]
    assert [line["images"] for line in scored] == [32, 64]
    best = manifest(folder / "best")["facts"]["best"]
    criterion = best["criterion"]
    assert best["value"] == min(line[criterion] for line in scored)
    assert "best" in copied.run("sample", checkpoint="best", num=1, label="best").directory.name


def test_a_training_that_stops_improving_ends_early_as_done_and_alike_after_a_stop(
    copied: Pipeline,
) -> None:
    # At a rate of next to nothing the EMA does not move, and no validation is better than the first.
    settings = {"train__lr": 1e-30, "train__patience": 32, "train__validate_every": 16, "train__images": 200}
    heard = Heard()
    outcome = copied.run("train-dit", heard, replace=True, **settings)
    seen = manifest(outcome.directory)["facts"]["images_seen"]
    assert 32 < seen < 80 and outcome.summary["images seen"] == f"{seen}"
    assert any("ending after" in note and "val_loss was best after" in note for note in heard.notes)
    assert copied.run("train-dit", **settings).already_complete
    recorded = lines(outcome.directory)

    class StoppingAfterIt(Silent):
        def update(self, done: int, **numbers: float) -> None:
            if done == seen - 8 and "val_loss" in numbers:
                raise Stopped("right after the validation that ends it")

    shutil.rmtree(outcome.directory)
    with pytest.raises(Stopped):
        copied.run("train-dit", StoppingAfterIt(), train__checkpoint_every=8, **settings)
    again = copied.run("train-dit", **settings).directory
    assert lines(again) == recorded

    # A kill between the last checkpoint and the manifest: it has ended, and no step is added.
    whole = weights(again)
    (again / "manifest.json").unlink()
    assert copied.run("train-dit", **settings).summary["images seen"] == f"{seen}"
    assert lines(again) == recorded and weights(again) == whole


def test_patience_that_ends_in_an_evaluation_that_was_cut_short_ends_there_after_it(copied: Pipeline) -> None:
    measured = {"metrics__every": 16, "metrics__num": 12, "metrics__steps": 2, "preview__every": 0}
    settings = {**measured, "train__lr": 1e-30, "train__patience": 16, "train__images": 200}
    folder = copied.run("train-dit", replace=True, **settings).directory
    recorded, whole = lines(folder), weights(folder)
    evaluations = sum(CONDITIONS in line for line in recorded)
    assert evaluations > 2, "the one after the last step, that at which patience ends, and those before"

    class CuttingShort(Silent):
        begun = 0

        def start(self, title: str, total: int, unit: str, done: int = 0) -> None:
            self.begun += "samples" in title
            if self.begun == evaluations - 1:
                raise Stopped("in the evaluation at which patience ends")

    shutil.rmtree(folder)
    with pytest.raises(Stopped):
        copied.run("train-dit", CuttingShort(), **settings)
    copied.run("train-dit", **settings)
    assert lines(folder) == recorded and weights(folder) == whole


def test_patience_counts_from_the_best_line_of_what_is_watched() -> None:
    def loss(*values: tuple[int, float]) -> list[dict[str, Any]]:
        return [{"images": images, "val_loss": value} for images, value in values]

    assert not Patience(20, None, loss((0, 3.0), (10, 2.0), (20, 2.5))).has_ended
    assert Patience(20, None, loss((0, 3.0), (10, 2.0), (20, 2.5), (30, 2.0))).has_ended
    assert not Patience(20, None, loss((0, 3.0), (10, 2.0), (20, 2.5), (30, 1.9))).has_ended
    psnr = [{"images": images, "val_psnr": value} for images, value in ((0, 10.0), (10, 12.0), (20, 11.0), (30, 11.5))]
    assert Patience(20, None, psnr).has_ended and not Patience(20, None, psnr[:3]).has_ended
    assert not Patience(20, None, [{"images": 90, "loss": 1.0}]).has_ended
