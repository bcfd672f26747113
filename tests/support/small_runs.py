"""Command lines of the smallest pipeline, and what they leave behind without what differs between two equal runs."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ldm.core.files import TEMPORARY
from ldm.core.runs.checkpoint import FOLDER
from ldm.core.runs.lock import LOCK
from ldm.core.runs.metrics_log import METRICS
from ldm.core.runs.run import MANIFEST, RECIPE
from tests.support.pipeline_run import MACHINE, SETTINGS, some_of

NAME = "tiny"
STEP = 8  # images
# A line of metrics for each step; no pictures, which take longer than the rest of such a run.
BARE = [f"train.log_every={STEP}", "train.validate_every=0"]


# The other family of `train-autoencoder`: a random posterior, here against an adversary.
KL = {
    **SETTINGS["train-vqvae"],
    "model": {"preset": "kl-f4-xs", "channels": 8},
    "loss": {"adversarial_weight": 0.5, "adversarial_start": 24},
}


# A denoiser of captions.
CAPTIONED = {**SETTINGS["train-dit"]["model"], "preset": "mmdit-xs", "text_width": 16, "text_layers": 1}


def write_recipe(path: Path, images: Path) -> Path:
    """Write the recipe of the smallest pipeline over a folder of images."""
    recipe: dict[str, Any] = {"name": NAME, "machine": {**MACHINE}, **SETTINGS}
    recipe["edit"] = {**SETTINGS["edit"], "images": some_of(images)}
    for command, settings in (("train-vqvae", SETTINGS["train-vqvae"]), ("train-autoencoder", KL)):
        recipe[command] = {**settings, "data": {**settings["data"], "source": str(images)}}
    recipe["train-denoiser"] = {**SETTINGS["train-dit"], "model": CAPTIONED}
    path.write_text(yaml.safe_dump(json.loads(json.dumps(recipe))))  # Copies: recipes use no aliases.
    return path


def training(command: str, steps: int, every: int, students: int = 1) -> list[str]:
    """Return the settings of a training of so many steps that saves every so many, and draws nothing.

    students: of a distillation, the steps of the first one.
    """
    settings = [command, *BARE, f"train.images={steps * STEP}", f"train.checkpoint_every={every * STEP}"]
    settings += [f"first_steps={students}"] if command == "distill" else []
    draws = ("train-dit", "train-denoiser", "train-var", "distill")
    return settings + (["preview.every=0"] if command in draws else [])


def start_from(run: Path, runs_dir: Path, *stages: str) -> Path:
    """Copy those of some stages that a run has into a new folder of runs. Returns the new run."""
    for stage in filter(lambda name: (run / name).is_dir(), stages):
        shutil.copytree(run / stage, runs_dir / NAME / stage)
    return runs_dir / NAME


def contents(folder: Path, but: Iterable[str] = ()) -> dict[str, Any]:
    """Return all that a stage holds, by file, without times, speeds, places, locks and the files named in `but`."""
    held: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or path.name == LOCK or name in but:
            continue
        if path.name == METRICS:
            held[name] = metrics(path.parent)
        elif path.name == RECIPE:
            ((command, settings),) = yaml.safe_load(path.read_bytes()).items()
            held[name] = command, {key: value for key, value in settings.items() if key not in ("runs_dir", "machine")}
        elif path.name == MANIFEST and "kind" in (manifest := json.loads(path.read_bytes())):
            held[name] = {key: manifest[key] for key in ("kind", "config", "files", "facts")}
        else:
            held[name] = path.read_bytes()
    return held


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a training's metrics without its speed, but a last one that is cut short."""
    path = folder / METRICS
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    read = [json.loads(line) for line in lines]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in read]


def checkpoints(folder: Path) -> list[int]:
    """Return after how many images a training's checkpoints under a final name were saved."""
    saved = folder / FOLDER
    return sorted(int(path.name) for path in saved.iterdir() if path.name.isdecimal()) if saved.is_dir() else []


def temporaries(folder: Path) -> list[str]:
    """Return what is left of interrupted writes, or of those going on: folders may come and go meanwhile."""
    found = []
    for at, folders, names in os.walk(folder):
        begun = [Path(at) / name for name in (*folders, *names) if name.startswith(TEMPORARY)]
        found += [path.relative_to(folder).as_posix() for path in begun]
    return found
