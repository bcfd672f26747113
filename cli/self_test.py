"""Every stage once, at the smallest size, on generated images: does the pipeline run on this machine at all?"""

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
from ..stages.table import STAGES, pipeline

# What a machine that is not fit for the work has been seen to raise; anything else is a defect of ours.
FAILURES = (UserError, OSError, RuntimeError, ImportError, MemoryError)
COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}
PER_CLASS, SIDE = 40, 16


def try_stages(machine: Machine, progress: Progress) -> Iterator[tuple[str, float, BaseException | None]]:
    """Run the stages in turn in a temporary folder; yield command, seconds, and what stopped it, if anything did.

    The first failure is the last one yielded: the stages behind it would have nothing to read.
    """
    with tempfile.TemporaryDirectory(prefix="ldm-self-test-") as folder:
        write_squares(Path(folder, "images"))
        progress.start("self-test", len(pipeline()), "stages")
        for number, command in enumerate(pipeline(), 1):
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
    stage = STAGES[command]
    settings: dict[str, Any] = {**stage.smallest, "runs_dir": folder / "runs", "machine": machine.model_dump()}
    if "data" in settings:
        settings["data"] = {**settings["data"], "source": str(folder / "images")}
    try:
        stage.load().run(stage.settings.model_validate(settings), Silent())
    except Stopped:
        raise
    except FAILURES as error:
        return error
    return None
