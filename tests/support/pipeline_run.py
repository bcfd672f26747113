"""A pipeline of the smallest sizes over a folder of coloured squares, for the tests of the stages."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldm.core.errors import Stopped
from ldm.core.progress import Outcome, Progress, Silent
from ldm.core.runs.run import MANIFEST
from ldm.stages.table import STAGES

COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}
SHORT = {"batch_size": 8, "warmup": 8, "log_every": 16, "validate_every": 64, "checkpoint_every": 32}
MACHINE = {"device": "cpu", "precision": "fp32"}  # "auto" is bf16 on some CPUs, and losses are compared to 1e-6.
SETTINGS: dict[str, dict[str, Any]] = {
    "train-vqvae": {
        "data": {"image_size": 16, "val_fraction": 0.25},
        "model": {"preset": "vqvae-xs", "channels": 8, "codebook_size": 16},
        "train": {**SHORT, "images": 64},
        "pictures": 2,
    },
    "encode": {"shard_size": 16, "batch_size": 8},
    "train-dit": {
        "model": {"preset": "dit-xs", "width": 32, "depth": 2, "heads": 2},
        "train": {**SHORT, "images": 64, "ema": 0.9},
        "preview": {"every": 64, "per_class": 1, "steps": 2},
    },
    "train-var": {
        "model": {"preset": "var-d2", "width": 32, "heads": 2},
        "train": {**SHORT, "images": 64, "ema": 0.9},
        "preview": {"every": 64, "per_class": 1},
    },
    "distill": {
        "steps": 1,
        "first_steps": 2,
        "train": {**SHORT, "images": 32},
        "preview": {"every": 32, "per_class": 1},
    },
    "train-classifier": {"train": {**SHORT, "images": 128}},
    "sample": {"num": 8, "steps": 3},
    "edit": {"steps": 4, "strength": [0.5]},
    "anagram": {"steps": 3, "num": 3},
    "hybrid": {"steps": 3, "num": 3},
    "interpolate": {"steps": 3},
    "eval": {},
}

MULTI_SCALE = {  # of 16 pixels, 4x smaller
    "preset": "msvq-xs",
    "channels": 8,
    "channel_multipliers": (1, 2),
    "scales": (1, 2, 4),
    "codebook_size": 16,
    "latent_channels": 4,
}
GENERAL = {"train-autoencoder": "train-vqvae", "train-denoiser": "train-dit"}  # with the settings of the others


def write_squares(folder: Path, per_class: int = 40, size: int = 20, names: Iterable[str] = COLOURS) -> Path:
    """Write a folder of class folders: noisy squares of one colour each, PNG."""
    noise = np.random.default_rng(0)
    for name, colour in zip(names, COLOURS.values(), strict=False):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = np.clip(np.array(colour) + noise.normal(0, 20, (size, size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")
    return folder


def some_of(images: Path, count: int = 3) -> list[str]:
    """Name an image of each of the first classes."""
    return [str(next(iter(sorted(folder.iterdir())))) for folder in sorted(images.iterdir())[:count]]


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text())


def png_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[0-9]*.png")}


def pngs(folder: Path) -> dict[str, bytes]:
    """Return the pixels of a folder's images by name; their files also say what they were drawn by."""
    return {path.name: Image.open(path).tobytes() for path in folder.glob("[0-9]*.png")}


class Heard(Silent):
    """Remembers what was reported."""

    def __init__(self) -> None:
        self.works: list[str] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def start(self, title: str, total: int, unit: str, done: int = 0) -> None:
        self.works.append(title)

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


class Stopping(Silent):
    """Stops a training right after so many images, as a signal does."""

    def __init__(self, stop_at: int) -> None:
        self.stop_at = stop_at

    def update(self, done: int, **numbers: float) -> None:
        if done == self.stop_at:
            raise Stopped("in the middle")


class Pipeline:
    """Runs stages into one run folder, each with the smallest settings, changed as a test asks."""

    def __init__(self, root: Path, images: Path, name: str = "tiny") -> None:
        self.runs_dir, self.images, self.name = root, images, name

    @property
    def folder(self) -> Path:
        return self.runs_dir / self.name

    def config(self, command: str, **changes: Any) -> Any:
        """Merge the smallest settings with `section__key=value` changes and validate them."""
        layers: dict[str, Any] = {"name": self.name, "runs_dir": self.runs_dir, "machine": {**MACHINE}}
        for section, values in SETTINGS[GENERAL.get(command, command)].items():
            layers[section] = {**values} if isinstance(values, dict) else values
        if command in ("train-vqvae", "train-autoencoder"):
            layers["data"]["source"] = str(self.images)
        if command == "edit" and "images" not in changes:
            layers["images"] = some_of(self.images)
        for key, value in changes.items():
            section, _, inner = key.partition("__")
            if inner:
                layers.setdefault(section, {})[inner] = value
            else:
                layers[section] = value
        return STAGES[command].settings.model_validate(layers)

    def run(self, command: str, progress: Progress | None = None, **changes: Any) -> Outcome:
        """Run one stage."""
        return STAGES[command].load().run(self.config(command, **changes), progress or Silent())

    def copy(self, root: Path) -> "Pipeline":
        """Return a copy under another root to be changed at will, without samples and what was made of them."""
        made = {"samples", "edits", "anagrams", "hybrids", "interpolations", "eval", "sweep", "plots", "report.html"}

        def others(folder: str, names: list[str]) -> set[str]:
            return made & set(names) if Path(folder) == self.folder else set()

        shutil.copytree(self.folder, root / "runs" / self.name, ignore=others)
        return Pipeline(root / "runs", self.images, self.name)

    def through(self, *commands: str) -> "Pipeline":
        """Run several stages with the smallest settings."""
        for command in commands:
            self.run(command)
        return self
