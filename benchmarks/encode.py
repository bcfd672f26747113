"""`ldm encode` from files to finished shards, against its network alone on squares that lie in memory."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ldm.core.autoencoders import registry
from ldm.core.autoencoders.codec import Autoencoder
from ldm.core.images.decode import as_tensor
from ldm.core.images.sets import image_sources
from ldm.core.progress import Silent
from ldm.core.system.precision import resolve
from ldm.stages import encode, train_autoencoder
from ldm.stages.configs import Encode, TrainVQVAE

from .interleaved import compare
from .options import Options

NUM_IMAGES, BATCH = 512, 64
# side of the squares, preset
SETUPS = ((64, "vqvae-s"), (128, "vqvae-f8"))


def measure(options: Options) -> dict[str, Any]:
    """Compare the stage with its encoder on JPEGs of 224 pixels, mirrored images included."""
    comparisons: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        images = write_jpegs(Path(folder) / "images", NUM_IMAGES)
        for size, preset in SETUPS:
            compared = _compare(Path(folder), images, size, preset, options.rounds)
            name = f"{preset} at {size} pixels"
            comparisons[f"{NUM_IMAGES} JPEGs of 224 pixels, mirrored ones included, {name}"] = compared
            facts[f"images per second, {name}"] = round(NUM_IMAGES / compared["variants"]["ldm encode"]["seconds"])
    return {"facts": facts, "comparisons": comparisons}


def write_jpegs(folder: Path, count: int, side: int = 224) -> Path:
    """Write smooth random pictures of about 11 kB, in four classes."""
    draws = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class{number % 4}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(draws.integers(0, 256, (28, 28, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=85)
    return folder


def _compare(folder: Path, images: Path, size: int, preset: str, rounds: int) -> dict[str, Any]:
    run: dict[str, Any] = {"name": f"{preset}-{size}", "runs_dir": folder / "runs"}
    training = TrainVQVAE.model_validate(
        {
            **run,
            "data": {"source": str(images), "image_size": size},
            "model": {"preset": preset},
            "train": {"images": 8, "batch_size": 8, "validate_every": 0},
            "pictures": 1,
        }
    )
    train_autoencoder.run(training, Silent())
    encoding = Encode.model_validate({**run, "batch_size": BATCH})
    policy = resolve()
    network = registry.load(encoding.root / "vqvae" / "final").to(policy.device).requires_grad_(False)
    loader = image_sources(training.data).read(Silent())
    squares = {loader.train: loader.train.batch(np.arange(len(loader.train)))}
    squares[loader.val] = loader.val.batch(np.arange(len(loader.val)))

    def alone() -> None:
        _encode_all(network, squares[loader.train], policy, mirrored=True)
        _encode_all(network, squares[loader.val], policy, mirrored=False)

    def stage() -> None:
        shutil.rmtree(encoding.root / "latents", ignore_errors=True)
        encode.run(encoding, Silent())

    return compare({"its network alone": alone, "ldm encode": stage}, rounds, warmup=1)


@torch.no_grad()
def _encode_all(network: Autoencoder, pixels: np.ndarray, policy: Any, mirrored: bool) -> None:
    for start in range(0, len(pixels), BATCH):
        batch = as_tensor(pixels[start : start + BATCH]).to(policy.device)
        for view in (batch, batch.flip(-1))[: 2 if mirrored else 1]:
            with policy.autocast():
                network.posterior(view)[0].half().cpu()
