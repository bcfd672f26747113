"""Samples measured in training: the numbers of `ldm sample` and `ldm eval`, and a training that does not notice."""

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ldm.core.errors import ConfigError, DataError
from ldm.core.pipeline.kept import BEST, open_kept
from ldm.core.progress import Silent
from ldm.core.training.sample_evaluator import SampleEvaluator
from ldm.stages.configs.folders import Inspect, Verify
from ldm.stages.table import STAGES
from ldm.stages.tools import inspect, verify
from tests.support.pipeline_run import Heard, Pipeline, pngs
from tests.support.several import run_together

MEASURED: dict[str, Any] = {
    "metrics__every": 24,
    "metrics__num": 24,
    "metrics__steps": 2,
    "metrics__seed": 5,
    "preview__every": 0,
    "train__validate_every": 0,
}
FRECHET = "frechet_distance[classifier]"


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


def measured(folder: Path) -> list[dict[str, Any]]:
    return [line for line in lines(folder) if "conditions" in line]


def fresh(trained: Pipeline, root: Path) -> Pipeline:
    """Return a copy of a run whose denoiser is still to be trained."""
    pipeline = trained.copy(root)
    shutil.rmtree(pipeline.folder / "dit")
    return pipeline


@pytest.fixture(scope="module")
def watched(trained: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run whose denoiser was measured as it trained; not to be changed."""
    pipeline = fresh(trained, tmp_path_factory.mktemp("watched"))
    pipeline.run("train-dit", **MEASURED)
    return pipeline


def test_the_numbers_are_those_of_sampling_and_judging(watched: Pipeline, tmp_path: Path) -> None:
    pipeline = watched.copy(tmp_path)
    recorded = measured(watched.folder / "dit")
    assert [line["images"] for line in recorded] == [24, 48, 64]
    drawing = {"num": 8, "steps": 2, "seed": 5, "sampler": "dpmpp-2m", "label": "same"}
    samples = pipeline.run("sample", **drawing).directory
    evaluated = pipeline.run("eval", samples="same", limit=5000).directory
    document = json.loads((evaluated / "metrics.json").read_text())
    last, names = recorded[-1], {FRECHET, "precision[classifier]", "class_accuracy[classifier]"}
    for found, expected in ((last, document["numbers"]), (last["real_against_real"], document["real_against_real"])):
        expected = {name: value for name, value in expected.items() if "inception_score" not in name}
        assert expected.keys() >= names
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    conditions = last["conditions"]
    assert conditions["sampling"] == document["conditions"]["sampling"]
    differing = {name for name, value in document["conditions"].items() if conditions.get(name) != value}
    assert (
        differing == {"manifold_images", "n_held_out"}
        and conditions["manifold_images"] > 90
        and len(pngs(samples)) == 24
    )


def test_measuring_changes_no_weight_by_one_bit_and_draws_from_no_generator(trained: Pipeline, tmp_path: Path) -> None:
    kept, states = {}, {}
    for every in (0, 24):
        pipeline = fresh(trained, tmp_path / str(every))
        pipeline.run("train-dit", **{**MEASURED, "metrics__every": every})
        states[every] = torch.get_rng_state()
        dit = pipeline.folder / "dit"
        files = [dit / "final" / "model.safetensors", *max((dit / "checkpoints").iterdir()).iterdir()]
        kept[every] = {path.relative_to(dit): path.read_bytes() for path in files}
        assert (dit / "best").is_dir() == bool(every)
    assert kept[0] == kept[24] and len(kept[0]) == 6
    assert torch.equal(states[0], states[24])


def test_two_processes_measure_what_one_does(watched: Pipeline, trained: Pipeline, tmp_path: Path) -> None:
    pair = fresh(trained, tmp_path)
    config = pair.config("train-dit", **{**MEASURED, "metrics__num": 25})

    def work(rank: int) -> None:
        STAGES["train-dit"].load().run(config, Silent())

    assert run_together(2, work) == [0, 0]
    alone = fresh(trained, tmp_path / "alone")
    alone.run("train-dit", **{**MEASURED, "metrics__num": 25})
    ours, theirs = (measured(run.folder / "dit") for run in (pair, alone))
    assert [line["images"] for line in ours] == [24, 48, 64]
    for one, other in zip(ours, theirs, strict=True):
        assert one["conditions"] == other["conditions"]
        assert one[FRECHET] == pytest.approx(other[FRECHET], rel=1e-2)  # Weights differ in their last bits.
    best = open_kept(pair.folder / "dit", "", BEST)
    assert best.metadata["best"]["value"] == min(line[FRECHET] for line in ours)


def train_sharded(pair: Pipeline, **changes: Any) -> list[int]:
    """Train a denoiser in two processes that each hold half of it. Returns their exit codes."""
    config = pair.config("train-dit", **MEASURED, train__shard=True, **changes)

    def work(rank: int) -> None:
        STAGES["train-dit"].load().run(config, Silent())

    return run_together(2, work)


def test_two_processes_that_shard_measure_and_keep_states_as_one_does(watched: Pipeline, tmp_path: Path) -> None:
    pair, alone = fresh(watched, tmp_path), fresh(watched, tmp_path / "alone")
    alone.run("train-dit", **MEASURED, train__optimizer="adamw", train__early=28)
    assert train_sharded(pair, train__early=28) == [0, 0]
    ours, theirs = (measured(run.folder / "dit") for run in (pair, alone))
    for one, other in zip(ours, theirs, strict=True):
        assert one["images"] == other["images"] and one["conditions"] == other["conditions"]
        assert one[FRECHET] == pytest.approx(other[FRECHET], rel=1e-2)  # Weights differ in their last bits.
    best, other_best = (open_kept(run.folder / "dit", "", BEST).metadata["best"] for run in (pair, alone))
    assert best["value"] == min(line[FRECHET] for line in ours)
    assert best["images_seen"] == other_best["images_seen"]
    for state in ("best", "early"):
        kept, expected = (
            load_file(run.folder / "dit" / state / "final" / "model.safetensors") for run in (pair, alone)
        )
        assert kept.keys() == expected.keys()
        assert all(torch.allclose(kept[name], tensor, rtol=0, atol=1e-5) for name, tensor in expected.items())


def test_two_processes_that_shard_validate_together_for_the_best_by_loss(watched: Pipeline, tmp_path: Path) -> None:
    pair = fresh(watched, tmp_path)
    assert train_sharded(pair, metrics__best="loss") == [0, 0]
    best = open_kept(pair.folder / "dit", "", BEST).metadata["best"]
    losses = [line["val_loss"] for line in measured(pair.folder / "dit")]
    assert best["criterion"] == "val_loss" and best["value"] == min(losses) and len(losses) == 3
    final, kept = (load_file(pair.folder / "dit" / name / "model.safetensors") for name in ("final", "best/final"))
    assert best["images_seen"] == 64 and all(torch.equal(kept[name], tensor) for name, tensor in final.items())


def test_a_disk_that_is_full_for_the_best_state_ends_all_that_shard(
    watched: Pipeline, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pair = fresh(watched, tmp_path)
    config = pair.config("train-dit", **MEASURED, train__shard=True)
    size = (watched.folder / "dit" / "best" / "final" / "model.safetensors").stat().st_size

    save_best = SampleEvaluator.save_best

    def limited(evaluator: SampleEvaluator, *numbers: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        save_best(evaluator, *numbers)

    def work(rank: int) -> None:
        if rank == 0:  # In a process of its own, which ends with it.
            SampleEvaluator.save_best = limited  # type: ignore[method-assign]
        STAGES["train-dit"].load().run(config, Silent())

    assert run_together(2, work) == [2, 2]
    assert len(measured(pair.folder / "dit")) == 1, "the first measurement is the best so far"
    reported = [line for line in capfd.readouterr().err.splitlines() if ": reported: " in line]
    assert len(reported) == 1 and "disk: cannot write" in reported[0] and "best" in reported[0]


def test_the_best_state_is_a_denoiser_that_says_when_and_by_what(watched: Pipeline, tmp_path: Path) -> None:
    pipeline = watched.copy(tmp_path)
    recorded = measured(watched.folder / "dit")
    best = open_kept(watched.folder / "dit", "", BEST)
    least = min(recorded, key=lambda line: line[FRECHET])
    found = best.metadata["best"]
    assert (found["images_seen"], found["criterion"], found["value"]) == (least["images"], FRECHET, least[FRECHET])
    assert found["conditions"] == least["conditions"] and found["real_against_real"] == least["real_against_real"]
    assert json.loads((best.path / "final" / "config.json").read_text())["best"] == found
    drawn = pipeline.run("sample", num=8, steps=2, seed=5, sampler="dpmpp-2m", label="best", checkpoint="best")
    evaluated = pipeline.run("eval", samples="best", limit=5000).directory
    document = json.loads((evaluated / "metrics.json").read_text())
    assert document["numbers"][FRECHET] == pytest.approx(least[FRECHET], rel=1e-4)
    assert document["conditions"]["sampling"]["checkpoint"] == f"best, after {least['images']} images"
    assert drawn.directory != pipeline.run("sample", num=8, steps=2).directory
    assert verify.run(Verify(path=pipeline.folder), Silent()).verdict == "is whole"


def test_the_best_by_another_number_is_another_state(trained: Pipeline, tmp_path: Path) -> None:
    pipeline = fresh(trained, tmp_path)
    outcome = pipeline.run("train-dit", **MEASURED, metrics__best="loss")
    recorded = measured(pipeline.folder / "dit")
    best = open_kept(pipeline.folder / "dit", "", BEST).metadata["best"]
    assert best["criterion"] == "val_loss" and best["value"] == min(line["val_loss"] for line in recorded)
    final = load_file(pipeline.folder / "dit" / "final" / "model.safetensors")
    kept = load_file(pipeline.folder / "dit" / "best" / "final" / "model.safetensors")
    assert best["images_seen"] == 64 and all(torch.equal(kept[name], tensor) for name, tensor in final.items())
    assert outcome.summary["best"].startswith("after 64 images, val_loss ")
    assert not any("--checkpoint" in command for command in outcome.next_commands)


def test_a_run_that_goes_on_with_another_evaluator_begins_its_best_anew(trained: Pipeline, tmp_path: Path) -> None:
    pipeline = fresh(trained, tmp_path)
    pipeline.run("train-dit", **MEASURED)
    dit = pipeline.folder / "dit"
    (dit / "manifest.json").unlink()
    shutil.rmtree(dit / "checkpoints" / "0000000064")
    pipeline.run("train-dit", **{**MEASURED, "metrics__num": 30})
    assert [(line["images"], line["conditions"]["n_samples"]) for line in measured(dit)] == [
        (24, 24),
        (48, 30),
        (64, 30),
    ]
    best = open_kept(dit, "", BEST).metadata["best"]
    assert best["conditions"]["n_samples"] == 30 and best["images_seen"] in (48, 64)


def test_the_reference_is_looked_at_once(trained: Pipeline, tmp_path: Path) -> None:
    pipeline, heard = fresh(trained, tmp_path), [Heard(), Heard(), Heard()]
    dit = pipeline.folder / "dit"
    for progress, settings in zip(heard, ({}, {}, {"metrics__limit": 50}), strict=True):
        pipeline.run("train-dit", progress, **{**MEASURED, **settings})
        (dit / "manifest.json").unlink()
        shutil.rmtree(dit / "checkpoints" / "0000000064")
    assert ["reference" in each.works for each in heard] == [True, False, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics__cfg": 2.0, "label_dropout": 0.0}, r"^`cfg=2` needs a null class"),
        ({"metrics__steps": 2000}, r"^`steps=2000` is outside 1 … 1000"),
        ({"metrics__features": "mobilenet-v2"}, r"^metrics: the mobilenet-v2 extractor needs its weights"),
        ({"metrics__reference": "nowhere/photos"}, r"^metrics: .*nowhere/photos"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_discarded(
    watched: Pipeline, settings: dict[str, Any], message: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (watched.folder / "dit").rglob("[!.]*")}
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        watched.run("train-dit", **{**MEASURED, **settings}, replace=True)
    assert "metrics.every=0" in str(caught.value.remedy) and caught.value.section == "metrics"
    assert {path: path.stat().st_mtime_ns for path in (watched.folder / "dit").rglob("[!.]*")} == before


def test_a_run_without_a_classifier_is_reported_how_to_get_one(trained: Pipeline, tmp_path: Path) -> None:
    pipeline = fresh(trained, tmp_path)
    shutil.rmtree(pipeline.folder / "classifier")
    with pytest.raises(DataError, match=r"metrics: .*classifier does not exist") as caught:
        pipeline.run("train-dit", **MEASURED)
    assert "ldm train-classifier" in str(caught.value.remedy)
    pipeline.run("train-dit", **{**MEASURED, "metrics__every": 0})
    pipeline.run("train-dit", **MEASURED)  # It is complete: nothing is to be measured any more.


def test_a_denoiser_without_a_best_state_says_so(trained: Pipeline) -> None:
    with pytest.raises(DataError, match="dit keeps no best state") as caught:
        trained.run("sample", checkpoint="best", num=1)
    assert "metrics.every" in str(caught.value.remedy)


def test_inspect_and_verify_know_the_best_state(watched: Pipeline, tmp_path: Path) -> None:
    pipeline = watched.copy(tmp_path)
    best = pipeline.folder / "dit" / "best"
    described = inspect.run(Inspect(path=best.parent), Silent()).summary
    assert FRECHET in described["best state"] and str(best) in described["best state"]
    own = inspect.run(Inspect(path=best), Silent())
    assert str(own.verdict).startswith("is of kind dit: complete")
    assert own.summary["made by"].startswith("ldm train-dit") and "--name best" not in own.summary["made by"]
    assert own.summary["of latents"] == "../../latents: still the same"
    assert verify.run(Verify(path=best), Silent()).verdict == "is whole"
    weights = best / "final" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    for path in (best, best.parent, pipeline.folder):
        heard = Heard()
        with pytest.raises(DataError, match="is not whole") as caught:
            verify.run(Verify(path=path), heard)
        assert any(str(weights) in warning for warning in heard.warnings)
        assert f"remove {best}" in str(caught.value.remedy)
    shutil.rmtree(best)
    assert verify.run(Verify(path=pipeline.folder), Silent()).verdict == "is whole"
