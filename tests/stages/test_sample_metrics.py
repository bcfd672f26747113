"""Samples measured in training: the numbers of `ldm sample` and `ldm eval`, and a training that does not notice."""

import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ldm.core.errors import ConfigError, DataError
from ldm.stages import inspect, verify
from ldm.stages.best import open_best
from ldm.stages.configs.folders import Inspect, Verify

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from launcher import Launcher
from pipeline_run import RUNS, Heard, Pipeline, pngs
from several import run_together

from ldm.core.progress import Silent

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
    judged = pipeline.run("eval", samples="same", limit=5000).directory
    document = json.loads((judged / "metrics.json").read_text())
    for found, told in ((recorded[-1], document["numbers"]), (recorded[-1]["real_against_real"], document["real_against_real"])):
        names = [name for name in told if "inception_score" not in name]
        assert FRECHET in names and "class_accuracy[classifier]" in {*names, "class_accuracy[classifier]"}
        assert {name: found[name] for name in names} == pytest.approx({name: told[name] for name in names}, rel=1e-4)
    conditions = recorded[-1]["conditions"]
    assert conditions["sampling"] == document["conditions"]["sampling"]
    assert {"manifold_images"} == {
        name for name, value in document["conditions"].items() if conditions.get(name) != value
    }
    assert len(pngs(samples)) == 24


def test_measuring_changes_no_weight_by_one_bit(watched: Pipeline, trained: Pipeline, tmp_path: Path) -> None:
    bare = fresh(trained, tmp_path)
    before = torch.get_rng_state()
    bare.run("train-dit", **{**MEASURED, "metrics__every": 0})
    after = torch.get_rng_state()
    for name in ("final/model.safetensors", *(f"checkpoints/0000000064/{n}.safetensors" for n in ("model", "ema", "optimizer"))):
        one, other = ((run.folder / "dit" / name).read_bytes() for run in (bare, watched))
        assert one == other, name
    bare.run("train-dit", **MEASURED, replace=True, seed=0)
    torch.set_rng_state(before)
    bare.run("train-dit", **{**MEASURED, "metrics__every": 16}, replace=True, train__lr=1e-5)
    assert torch.equal(torch.get_rng_state(), after), "measuring drew from the generator that others draw from"
