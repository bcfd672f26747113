"""What else gets the numbers and pictures of a training, beside its folder: TensorBoard, wandb, trackio or mlflow.

A tracker is a class with the three methods of `Tracker` and a line in `TRACKERS`. Its package is loaded when it is
asked for; what reaches a network is a matter of that package and its own settings.
"""

import importlib
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from .. import files
from ..errors import ConfigError, DataError, as_data_error

_RUN = "tracker.txt"  # holds the name by which a tracker knows a training that goes on
_PROJECT = "ldm"


class Tracker(Protocol):
    """Takes what a training reports, over images seen. name: by which users know it."""

    name: str

    def line(self, line: Mapping[str, Any]) -> None:
        """Take the numbers of a line of `metrics.jsonl`."""

    def pictures(self, folder: Path, images: int) -> None:
        """Take the pictures that a training drew into its folder after so many images, by their folders' names."""

    def close(self) -> None:
        """End, whether the training is finished or goes on later."""


class TensorBoard:
    """Writes scalars and pictures of TensorBoard.

    images: of the checkpoint that training resumes from; TensorBoard discards events of more. Raises ConfigError where
    the package is not installed.
    """

    name = "tensorboard"

    def __init__(self, folder: Path, images: int = -1) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError("train.tensorboard needs the package tensorboard", "pip install tensorboard") from None
        self._writer = SummaryWriter(folder / "tensorboard", purge_step=images + 1 if images > 0 else None)

    def line(self, line: Mapping[str, Any]) -> None:
        for name, value in _numbers(line).items():
            self._writer.add_scalar(name, value, global_step=line["images"])
        self._writer.flush()

    def pictures(self, folder: Path, images: int) -> None:
        for path in _drawn(folder, images):
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self._writer.add_image(path.parent.name, pixels, global_step=images, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """Logs to wandb, or to trackio, which has the same functions; images seen are the axis.

    What was logged after the checkpoint that a training resumes from is logged once more.
    """

    def __init__(self, package: str, folder: Path, config: Mapping[str, Any]) -> None:
        self.name, self._package = package, _loaded(package)
        run, name = _run_of(folder), f"{folder.parent.name}-{folder.name}"
        own = {"id": run, "dir": str(folder)} if package == "wandb" else {}
        named = name if package == "wandb" else f"{name}-{run}"  # by which trackio knows it
        self._package.init(project=_PROJECT, name=named, config=dict(config), resume="allow", **own)
        if package == "wandb":
            self._package.define_metric("*", step_metric="images")

    def line(self, line: Mapping[str, Any]) -> None:
        self._package.log({"images": line["images"], **_numbers(line)})

    def pictures(self, folder: Path, images: int) -> None:
        shown = {path.parent.name: self._package.Image(str(path)) for path in _drawn(folder, images)}
        if shown:
            self._package.log({"images": images, **shown})

    def close(self) -> None:
        self._package.finish()


class MLflow:
    """Logs to mlflow, where its own settings (MLFLOW_TRACKING_URI) lead; images seen are the step."""

    name = "mlflow"

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._package = _loaded("mlflow")
        self._package.set_experiment(_PROJECT)
        recorded = folder / _RUN
        if recorded.is_file():
            self._package.start_run(run_id=files.read_plain(recorded).decode(errors="replace").strip())
            return
        run = self._package.start_run(run_name=f"{folder.parent.name}-{folder.name}")
        files.write_bytes(recorded, run.info.run_id.encode())
        self._package.log_params(dict(config))

    def line(self, line: Mapping[str, Any]) -> None:
        # Its names hold no brackets.
        numbers = {re.sub(r"[^\w./ -]", "_", name): value for name, value in _numbers(line).items()}
        self._package.log_metrics(numbers, step=line["images"])

    def pictures(self, folder: Path, images: int) -> None:
        for path in _drawn(folder, images):
            self._package.log_artifact(str(path), artifact_path=path.parent.name)

    def close(self) -> None:
        self._package.end_run()


# By name: folder of the training, its settings → a tracker.
TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "wandb": lambda folder, config: WandB("wandb", folder, config),
    "trackio": lambda folder, config: WandB("trackio", folder, config),
    "mlflow": MLflow,
}


def start_tracker(name: str, folder: Path, settings: Mapping[str, Any]) -> Tracker:
    """Start a tracker of a training. Raises ConfigError where it is not installed, or does not start."""
    try:
        with as_data_error(f"`train.tracker={name}`: it does not start"):
            return TRACKERS[name](folder, settings)
    except DataError as error:
        raise ConfigError(error.message, "set it up, or leave out `train.tracker`") from error


def _loaded(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ConfigError(f"`train.tracker={package}`: it is not installed", f"pip install {package}") from None


def _run_of(folder: Path) -> str:
    """Return the name of a training, which stays when it goes on, and is another once its folder was made anew."""
    recorded = folder / _RUN
    if not recorded.is_file():
        files.write_bytes(recorded, secrets.token_hex(8).encode())
    return files.read_plain(recorded).decode(errors="replace").strip()


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if isinstance(value, float)}


def _drawn(folder: Path, images: int) -> Iterator[Path]:
    yield from sorted(folder.glob(f"*/{images:010d}.png"))
