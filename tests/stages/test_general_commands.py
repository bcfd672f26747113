"""`train-autoencoder` and `train-denoiser`: a whole run of them, and beside `train-vqvae` and `train-dit`."""

import json
import shutil
from pathlib import Path

import pytest

from ldm.core.errors import ConfigError
from ldm.core.progress import Silent
from ldm.stages.configs.folders import Inspect, Verify
from ldm.stages.configs.report import Report
from ldm.stages.tools import inspect, report, verify
from tests.support.pipeline_run import Heard, Pipeline, manifest, write_squares

IMAGES_SEEN = {"train__images": 32, "train__validate_every": 32}


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    images = write_squares(tmp_path_factory.mktemp("images") / "squares")
    pipeline = Pipeline(tmp_path_factory.mktemp("runs"), images)
    pipeline.run("train-autoencoder", **IMAGES_SEEN)
    pipeline.run("encode")
    pipeline.run("train-denoiser", **IMAGES_SEEN)
    pipeline.run("train-classifier", **IMAGES_SEEN)
    pipeline.run("train-classifier", noisy=True, **IMAGES_SEEN)
    pipeline.run("sample", label="drawn")
    pipeline.run("eval", samples="drawn")
    pipeline.run("eval", of="reconstructions")
    pipeline.run("eval", bits_per_dim=True, times=2)
    return pipeline


def test_a_run_of_the_general_commands_goes_from_images_to_numbers_and_is_whole(general: Pipeline) -> None:
    assert not (general.folder / "vqvae").exists() and not (general.folder / "dit").exists()
    assert manifest(general.folder / "autoencoder")["kind"] == "autoencoder"
    assert manifest(general.folder / "denoiser")["kind"] == "denoiser"
    document = json.loads((general.folder / "eval" / "drawn" / "metrics.json").read_text())
    assert "frechet_distance[classifier]" in document["numbers"]
    verified = verify.run(Verify(path=general.folder), Silent()).summary["verified"]
    assert verified == "autoencoder, latents, denoiser, classifier, noisy-classifier, samples, eval (3)"


def test_the_general_commands_train_the_same_weights_as_the_others(general: Pipeline, tmp_path: Path) -> None:
    other = Pipeline(tmp_path, general.images, general.name)
    other.run("train-vqvae", **IMAGES_SEEN)
    other.run("encode")
    other.run("train-dit", **IMAGES_SEEN)
    for ours, theirs in (("autoencoder", "vqvae"), ("latents", "latents"), ("denoiser", "dit")):
        files = manifest(general.folder / ours)["files"]
        assert {name: each["sha256"] for name, each in files.items() if not name.endswith("json")} == {
            name: each["sha256"]
            for name, each in manifest(other.folder / theirs)["files"].items()
            if not name.endswith("json")
        }


def test_inspect_and_report_show_such_a_run(general: Pipeline) -> None:
    shown = inspect.run(Inspect(path=general.folder / "denoiser"), Silent()).summary
    assert shown["made by"].startswith("ldm train-denoiser -c ")
    assert shown["of autoencoder"] == "../autoencoder: still the same"
    listener = Heard()
    report.run(Report(name=general.name, runs_dir=general.runs_dir), listener)
    page = (general.folder / "report.html").read_text()
    assert "Training the denoiser" in page and "Training the autoencoder" in page
    assert not listener.warnings


def test_of_two_autoencoders_or_denoisers_in_a_run_one_has_to_be_chosen(general: Pipeline, tmp_path: Path) -> None:
    both = general.copy(tmp_path)
    both.run("train-vqvae", **IMAGES_SEEN)
    shutil.rmtree(both.folder / "latents")
    with pytest.raises(ConfigError) as caught:
        both.run("encode")
    first, second = both.folder / "vqvae", both.folder / "autoencoder"
    assert caught.value.message == f"the run has {first} and {second}"
    assert caught.value.remedy == f"choose one: `autoencoder={first}`"
    both.run("encode", autoencoder=second)
    both.run("train-dit", **IMAGES_SEEN)
    with pytest.raises(ConfigError, match=r"the run has .*/dit and .*/denoiser \(choose one: `denoiser=.*/dit`\)"):
        both.run("sample")
    both.run("sample", denoiser=both.folder / "denoiser", num=1)
    listener = Heard()
    report.run(Report(name=both.name, runs_dir=both.runs_dir), listener)
    assert [warning.split(",")[0] for warning in listener.warnings] == [
        f"left out of the report: {both.folder / folder}" for folder in ("autoencoder", "denoiser")
    ]
