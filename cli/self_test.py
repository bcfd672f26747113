"""Every stage once, at the smallest size, on generated images: does the pipeline run on this machine at all?"""

import importlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import Stopped, UserError
from ..core.images.decode import write_png
from ..core.progress import Progress, Silent
from ..core.system.settings import Machine
from ..stages.commands import module_of
from ..stages.configs import STAGES

# What a machine that is not fit for the work has been seen to raise; anything else is a defect of ours.
FAILURES = (UserError, OSError, RuntimeError, ImportError, MemoryError)
COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}
PER_CLASS, SIDE = 40, 16
SHORT = {"images": 64, "batch_size": 8, "warmup": 8, "log_every": 32, "validate_every": 64, "checkpoint_every": 32}
SETTINGS: dict[str, dict[str, Any]] = {
    "train-vqvae": {
        "data": {"image_size": SIDE, "val_fraction": 0.25},
        "model": {"preset": "vqvae-xs", "channels": 8, "codebook_size": 16},
        "train": SHORT,
    },
    "encode": {"shard_size": 32, "batch_size": 8},
    "train-dit": {
        "model": {"preset": "dit-xs", "width": 32, "depth": 2, "heads": 2},
        "train": SHORT,
        "preview": {"every": 64, "per_class": 1, "steps": 2},
    },
    "train-classifier": {"train": SHORT},
    "sample": {"num": 8, "steps": 3},
    "eval": {},
}


def try_stages(machine: Machine, progress: Progress) -> Iterator[tuple[str, float, BaseException | None]]:
    """Run the stages in turn in a temporary folder; yield command, seconds, and what stopped it, if anything did.

    The first failure is the last one yielded: the stages behind it would have nothing to read.
    """
    with tempfile.TemporaryDirectory(prefix="ldm-self-test-") as folder:
        write_squares(Path(folder, "images"))
        progress.start("self-test", len(STAGES), "stages")
        for number, command in enumerate(STAGES, 1):
            started = time.monotonic()
            error = _failure(command, machine, Path(folder))
            yield command, time.monotonic() - started, error
            if error is not None:
                break
            progress.update(number)
        progress.finish()


def write_squares(folder: Path) -> None:
    """Write a folder of class folders: noisy squares of one colour each, PNG."""
    noise = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            pixels = np.clip(np.array(colour) + noise.normal(0, 20, (SIDE, SIDE, 3)), 0, 255)
            write_png(folder / name / f"{number:03d}.png", pixels.astype(np.uint8))


def _failure(command: str, machine: Machine, folder: Path) -> BaseException | None:
    """Run one stage; return what stopped it."""
    settings = {**SETTINGS[command], "runs_dir": folder / "runs", "machine": machine.model_dump()}
    if command == "train-vqvae":
        settings["data"] = {**settings["data"], "source": str(folder / "images")}
    try:
        stage = importlib.import_module(f"..stages.{module_of(command)}", __package__)
        stage.run(STAGES[command].model_validate(settings), Silent())
    except Stopped:
        raise
    except FAILURES as error:
        return error
    return None
