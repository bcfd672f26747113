"""Exports and imports of the tiny pipelines, and what diffusers needs to draw the images that `ldm sample` drew."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ldm.core import seeds
from ldm.core.denoisers import registry as denoisers
from ldm.core.progress import Outcome, Progress, Silent
from ldm.core.runs.roles import DENOISER
from ldm.core.runs.run import open_run
from ldm.stages.configs.exchange import Export, Import
from ldm.stages.tools import export, import_model
from tests.support.pipeline_run import Pipeline, pngs

TIMES = np.array([1, 2, 100, 250, 500, 777, 999, 1000])
CLASSES = np.array([0, 1, 2, 1000, 0, 1, 2, 1000])


def run_export(pipeline: Pipeline, directory: Path, progress: Progress | None = None, **changes: Any) -> Outcome:
    config = Export(directory=directory, name=pipeline.name, runs_dir=pipeline.runs_dir, **changes)
    return export.run(config, progress or Silent())


def run_import(pipeline: Pipeline, path: Path, progress: Progress | None = None, **changes: Any) -> Outcome:
    config = Import(path=path, name=pipeline.name, runs_dir=pipeline.runs_dir, **changes)
    return import_model.run(config, progress or Silent())


def drawn(pipeline: Pipeline, label: str) -> np.ndarray:
    """The images of a samples folder, uint8 (N, H, W, 3)."""
    folder = pipeline.folder / "samples" / label
    return np.stack([np.asarray(Image.open(folder / name)) for name in sorted(pngs(folder))])


def feed_of(pipeline: Pipeline, num: int, guidance: float, steps: int, ahead: int = 1) -> dict[str, Any]:
    """What `ldm sample` starts from for `num` images of each of three classes, and random inputs of the network."""
    shape = tuple(open_run(pipeline.folder / "dit", DENOISER, "").metadata["latent_shape"])
    noise = torch.cat([seeds.normal(seed, "initial noise", [0], shape) for seed in range(3 * num)])
    x = torch.randn(len(TIMES), *shape, generator=torch.Generator().manual_seed(0))
    return {
        "x": x.numpy(),
        "timesteps": TIMES - ahead,
        "classes": CLASSES if guidance != 1 else CLASSES % 3,
        "labels": np.repeat(np.arange(3), num),
        "noise": noise.numpy(),
        "guidance": guidance,
        "steps": steps,
    }


@torch.no_grad()
def output_of(pipeline: Pipeline, feed: dict[str, Any]) -> np.ndarray:
    """Our network's output for the same inputs."""
    network = denoisers.load(pipeline.folder / "dit" / "final")
    classes = torch.from_numpy(feed["classes"])
    labels = torch.where(classes == 1000, network.config.num_classes, classes)
    return network(torch.from_numpy(feed["x"]), torch.from_numpy(TIMES / 1000).float(), {"labels": labels}).numpy()


def levels_apart(images: np.ndarray, others: np.ndarray) -> int:
    """How many of 255 levels two sets of images are apart, at most; the first in [0, 1] or uint8."""
    rounded = images.astype(np.int64) if images.dtype == np.uint8 else (images * 255).round().astype(np.int64)
    return int(np.abs(rounded - others).max())
