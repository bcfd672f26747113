"""R25: stock diffusers draws from an export what `ldm sample` draws, where `ldm` cannot be imported.

One process without `ldm` draws from the exports of all trials.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from ldm.core.diffusion.predictions import latest_time
from ldm.core.diffusion.schedules import schedule as noise_schedule
from tests.support.exchanged import drawn, feed_of, levels_apart, output_of, run_export
from tests.support.ledger import Trials
from tests.support.pipeline_run import Pipeline

STOCK = Path(__file__).parents[1] / "support" / "stock_diffusers.py"
SCHEDULES = ("linear", "scaled-linear", "cosine", "quadratic", "sigmoid", "rectified-flow")


@dataclass(frozen=True)
class Choice:
    """A denoiser and how to draw from it. latents: of which autoencoder."""

    guidance: float
    steps: int
    latents: str = "vq"
    settings: dict[str, Any] = field(default_factory=dict)


def choose(number: int, random: np.random.Generator) -> Choice:
    """The first is a denoiser with the default settings, the second learns its variance; the others are any."""
    if number == 0:
        return Choice(guidance=2.5, steps=20)
    if number == 1:
        diffusion = {"schedule": "linear", "prediction": "eps", "weighting": "snr", "num_steps": 500}
        return Choice(2.0, 10, settings={"diffusion": {**diffusion, "learn_variance": True}})
    schedule = str(random.choice(SCHEDULES))
    diffusion = {"schedule": schedule}
    if schedule == "rectified-flow":
        diffusion |= {"shift": float(random.choice([0.5, 1, 1.5, 3]))}
    else:
        ends_in_noise = bool(random.integers(2))
        predictions = ["v", "x0"] if ends_in_noise else ["v", "x0", "eps"]
        diffusion |= {"zero_terminal_snr": ends_in_noise, "prediction": str(random.choice(predictions))}
        diffusion |= {"num_steps": int(random.choice([1000, 500, 200, 100]))}
        path = noise_schedule(schedule, diffusion["num_steps"], ends_in_noise)
        if latest_time(diffusion["prediction"], path) < 1:  # Diffusers starts at 1 all the same; `ldm export` warns.
            diffusion["prediction"] = "v"
        diffusion |= {"learn_variance": bool(random.integers(2))}
    width, heads = random.choice([[32, 2], [48, 4], [64, 2]]).tolist()
    model = {"preset": "dit-xs", "width": width, "heads": heads, "depth": int(random.integers(1, 4))}
    model |= {"patch_size": int(random.choice([1, 2, 4])), "mlp_ratio": float(random.choice([2, 4]))}
    guided = bool(random.integers(2))
    return Choice(
        guidance=float(random.choice([1.5, 4])) if guided else 1.0,
        steps=int(random.choice([4, 10, 20])),
        latents=str(random.choice(["vq", "kl"])),
        settings={"diffusion": diffusion, "model": model, "label_dropout": 0.1 if guided else 0.0},
    )


@pytest.fixture(scope="module")
def encoded(drawing: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pipeline]:
    """Return a run with latents of an autoencoder of some kind, made when it is first asked for."""
    made = {"vq": drawing}

    def encode(kind: str) -> Pipeline:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            torch.manual_seed(0)
            layers = {"block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 4}
            layers |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
            diffusers.AutoencoderKL(**layers).save_pretrained(folder / "given")
            made[kind] = Pipeline(folder / "runs", drawing.images)
            made[kind].run("train-vqvae", autoencoder=folder / "given")
            made[kind].run("encode")
        return made[kind]

    return encode


@pytest.mark.promise("R25", quick=2, full=24)
def test_without_ldm_diffusers_draws_the_images_of_ldm_sample(
    trials: Trials, encoded: Callable[[str], Pipeline], tmp_path: Path
) -> None:
    choices = [choose(number, trials.random(number)) for number in range(trials.count)]
    runs, words = [], []
    for number, choice in enumerate(choices):
        given = encoded(choice.latents)
        run = given
        if choice.settings:
            run = Pipeline(tmp_path / str(number), given.images)
            settings = {"preview__every": 0, "train__lr": 1e-3, **choice.settings}
            run.run("train-dit", latents=given.folder / "latents", **settings)
            run.run("sample", num=4, steps=choice.steps, cfg=choice.guidance, label="shown")
        runs.append(run)
        run_export(run, tmp_path / f"{number}-exported")
        straight = choice.settings.get("diffusion", {}).get("schedule") == "rectified-flow"
        feed = feed_of(run, num=4, guidance=choice.guidance, steps=choice.steps, ahead=0 if straight else 1)
        np.savez(tmp_path / f"{number}-feed.npz", **feed)
        words += [str(tmp_path / f"{number}-{what}") for what in ("exported", "feed.npz", "made.npz")]
    (tmp_path / "empty").mkdir()
    program = [sys.executable, "-I", str(STOCK), *words]
    done = subprocess.run(program, cwd=tmp_path / "empty", capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stderr
    for number, _ in enumerate(trials):
        made, run = np.load(tmp_path / f"{number}-made.npz"), runs[number]
        ours, shown = output_of(run, dict(np.load(tmp_path / f"{number}-feed.npz"))), drawn(run, "shown")
        assert ours.std() > 0.01 and shown.std() > 5, choices[number]
        assert np.abs(made["output"] - ours).max() <= 1e-5, choices[number]
        assert levels_apart(made["images"], shown) <= 1, choices[number]
        assert made["names"].tolist() == ["blue", "green", "red"]
