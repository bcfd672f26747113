"""Every family goes through the stages as any denoiser does: training, resuming, measuring, sampling, verifying."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from ldm.core.progress import Silent
from ldm.core.runs.run import MANIFEST
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from tests.support.pipeline_run import Pipeline, pngs

SMALL = {"channels": 8, "multipliers": (1, 2), "groups": 4, "head_width": 8}
MODELS = {
    "unet": {"preset": "unet-xs", **SMALL, "blocks": "res,res attn"},
    "menu": {"preset": "menu-res-res-attn", **SMALL},
    "unet-mnist": {"preset": "unet-mnist", "width": 8},
    "mmdit": {"preset": "mmdit-xs", "width": 16, "depth": 2, "heads": 2, "text_width": 8},
}


SLOW = ("mmdit",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in MODELS])
def test_a_denoiser_resumes_to_the_same_bits_and_its_samples_are_whole(copied: Pipeline, name: str) -> None:
    shutil.rmtree(copied.folder / "dit")
    settings = {"model": MODELS[name], "train__lr": 1e-3, "train__decay": "exponential", "train__decay_every": 16}
    settings |= {
        "metrics": {"every": 32, "num": 12, "steps": 2, "features": "auto", "limit": 20},
        "dispersive_weight": 0.5,
    }
    copied.run("train-denoiser", **settings)
    denoiser = copied.folder / "denoiser"
    lines = [json.loads(line) for line in (denoiser / "metrics.jsonl").read_text().splitlines()]
    assert all("dispersive_loss" in line for line in lines if "loss" in line)
    measured = [line["images"] for line in lines if any(key.startswith("frechet_distance") for key in line)]
    assert measured == [32, 64] and [line["lr"] for line in lines if "lr" in line][-1] < 1e-3

    # Interrupted half-way, and run again: the same weights, and the same statistics of batches.
    whole = load_file(denoiser / "final" / "model.safetensors")
    (denoiser / MANIFEST).unlink()
    shutil.rmtree(denoiser / "final")
    shutil.rmtree(denoiser / "checkpoints" / "0000000064")
    copied.run("train-denoiser", **settings)
    resumed = load_file(denoiser / "final" / "model.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())

    # An image does not depend on what is drawn with it.
    several = copied.run("sample", num=2, cfg=2.0, label="several").directory
    alone = copied.run("sample", num=1, cfg=2.0, classes="blue", label="alone").directory
    assert pngs(alone)["000000.png"] == pngs(several)["000000.png"]
    assert verify.run(Verify(path=copied.folder), Silent()).verdict == "is whole"
