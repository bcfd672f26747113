"""A generator that is not a denoiser is new files and one role: sampling, evaluation and reports take it as it is."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ldm.core.conditioning.registry import conditioning_of
from ldm.core.diffusion import conditions
from ldm.core.errors import ConfigError, DataError
from ldm.core.pipeline.kept import BEST, KeptState, kept_best
from ldm.core.pipeline.training_data import TrainingData
from ldm.core.progress import Silent
from ldm.core.runs import roles
from ldm.core.runs.outputs import claim
from ldm.core.system.precision import resolve
from ldm.core.training.preview import draw_preview
from ldm.core.training.sample_evaluator import SampleEvaluator
from ldm.core.training.settings import Metrics, Preview
from ldm.stages.configs.folders import Inspect
from ldm.stages.configs.report import Report
from ldm.stages.tools import inspect, report
from tests.support import toy_generator
from tests.support.pipeline_run import Pipeline, manifest, pngs


@pytest.fixture
def run(copied: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """The smallest run with class means in the place of the denoiser."""
    monkeypatch.setattr(roles, "ROLES", (*roles.ROLES, toy_generator.ROLE))  # the one line
    monkeypatch.setitem(sys.modules, "ldm.core.toy_generator", toy_generator)  # its own file
    given = copied.config("train-vqvae")
    toy_generator.train(toy_generator.TrainMeans(name=given.name, runs_dir=given.runs_dir, data=given.data))
    return copied


def means(run: Pipeline) -> Path:
    return run.folder / toy_generator.KIND


def test_it_is_sampled_shown_along_the_way_and_evaluated(run: Pipeline) -> None:
    drawn = run.run("sample", denoiser=means(run), steps=None, num=6, progressive=True, label="drawn").directory
    made = manifest(drawn)
    assert sorted(made["inputs"]) == ["means"] and len(pngs(drawn)) == 18
    assert made["facts"]["sampling"] == {"sampler": "coarse-to-fine", "steps": 3, "cfg": 1.0, "seed": 0}
    assert (drawn / "progressive.png").is_file() and (drawn / "progressive.webp").is_file()
    evaluated = run.run("eval", samples="drawn").directory
    numbers = json.loads((evaluated / "metrics.json").read_text())
    assert numbers["numbers"]["class_accuracy[classifier]"] > 0.9
    assert numbers["conditions"]["sampling"]["sampler"] == "coarse-to-fine"

    # One image alone is that of the set, and an interrupted set is completed.
    alone = run.run("sample", denoiser=means(run), steps=None, num=1, classes="green", seed=7, label="alone").directory
    assert pngs(alone)["000007.png"] == pngs(drawn)["000007.png"]
    whole = pngs(drawn)
    (drawn / "manifest.json").unlink()
    (drawn / "000003.png").unlink()
    run.run("sample", denoiser=means(run), steps=None, num=6, progressive=True, label="drawn")
    assert pngs(drawn) == whole


def test_the_reference_is_found_by_manifests_though_denoiser_and_autoencoder_are_gone(run: Pipeline) -> None:
    for kind in ("dit", "latents", "vqvae"):
        (run.folder / kind).rename(run.folder / f"gone-{kind}")
    assert run.run("sample", steps=None, num=5, label="drawn").directory.is_dir()  # the run's only generator
    assert run.run("eval", samples="drawn").directory.is_dir()


def test_settings_of_denoisers_are_refused_by_name(run: Pipeline) -> None:
    with pytest.raises(ConfigError, match=r"`cfg=2\.0` is not a setting of class means"):
        run.run("sample", denoiser=means(run), cfg=2.0)
    with pytest.raises(ConfigError, match="choose one: `denoiser="):
        run.run("sample")


def test_a_generator_that_changed_since_is_refused_by_eval(run: Pipeline) -> None:
    run.run("sample", denoiser=means(run), steps=None, num=5, label="drawn")
    path = means(run) / "manifest.json"
    (means(run) / toy_generator.MEANS).rename(means(run) / "elsewhere")
    with pytest.raises(DataError):
        run.run("sample", denoiser=means(run), steps=None, num=5, label="again")
    path.unlink()
    with pytest.raises(DataError, match="unfinished"):
        run.run("eval", samples="drawn")


def test_its_samples_are_inspected_and_reported(run: Pipeline) -> None:
    run.run("sample", denoiser=means(run), steps=None, num=5, label="drawn")
    run.run("eval", samples="drawn")
    assert inspect.run(Inspect(path=run.folder / "samples" / "drawn"), Silent()).summary
    report.run(Report(name=run.name, runs_dir=run.runs_dir), Silent())
    assert "coarse-to-fine" in (run.folder / "report.html").read_text()


def test_it_is_evaluated_and_previewed_in_training_and_its_best_state_is_kept(run: Pipeline) -> None:
    config, policy = run.config("sample", denoiser=means(run), steps=None), resolve("cpu", "fp32")
    opened = toy_generator.open_means(config)
    generator = opened.generator(config, policy)
    images, names = draw_preview(generator, opened.conditioning, Preview(per_class=2, classes=2))
    assert names == ["blue", "green"] and images.shape == (4, 16, 16, 3)

    data = TrainingData(opened.source, opened.source, opened.conditioning)
    recorded = opened.recorded(0)
    evaluator = SampleEvaluator(config, Metrics(every=8, num=12), data, recorded, policy, Silent())
    settings = opened.source.config | {"name": run.name, "runs_dir": run.runs_dir}
    work = claim(means(run), toy_generator.TrainMeans.model_validate(settings), opened.source.inputs, Silent())
    written: list[Path] = []

    def write(folder: Path, described: dict) -> None:
        folder.mkdir(parents=True)
        for name in ("model.safetensors", "config.json"):
            (folder / name).write_text("{}")
        written.append(folder)

    evaluator.start(generator, dict, KeptState(work, write, opened.source.metadata, BEST))
    numbers = evaluator.evaluate(lambda: False)
    assert numbers is not None and numbers["class_accuracy[classifier]"] > 0.9
    evaluator.save_best(8, numbers)
    assert len(written) == 1 and (kept_best(means(run)) or {})["images_seen"] == 8


def test_an_image_follows_from_its_condition_and_seed_alone(run: Pipeline) -> None:
    opened = toy_generator.open_means(run.config("sample", denoiser=means(run), steps=None))
    generator = opened.generator(run.config("sample"), resolve("cpu", "fp32"))
    cond = conditions.index(conditioning_of(opened.source.metadata).groups().cond, np.arange(9) % 3)
    together = generator.draw(cond, np.arange(9))
    assert np.array_equal(generator.draw(conditions.index(cond, [4]), np.array([4]))[0], together[4])
