"""Deep-compression autoencoders with and without shortcuts: `python -m benchmarks.shortcuts --data FOLDER`.

At each factor (f8, f16, f32; 512 numbers for an image of 64 pixels) two are trained alike, with the same parameters,
since shortcuts have none: with them (Chen et al. 2024) and without. Then comes the second phase, the layers around the
latents at twice the size. Before and after it, held-out images of both sizes are reconstructed and compared. All of it
runs on one core. What is finished is kept, what was stopped goes on, and the result is written after each step.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ldm.core import files
from ldm.core.autoencoders import registry

from . import machine
from .__main__ import RESULTS
from .commands import run, spent

MODELS: dict[int, dict[str, Any]] = {
    8: {"model.preset": "dc-f8-s"},
    16: {"model.preset": "dc-f16-s"},
    32: {
        "model.preset": "dc-f16-s",
        "model.channel_multipliers": (1, 2, 4, 4, 8, 8),
        "model.encoder_depths": (0, 2, 2, 2, 2, 2),
        "model.latent_channels": 128,
    },
}
MEASURED = ("psnr", "ssim", "lpips", "frechet_distance")
TRAINING = {"train.batch_size": 32, "train.lr": 1e-3, "train.decay": "cosine", "train.ema": 0.99}


def main() -> None:
    """Train and compare all of them, and write what is known after each."""
    given = _parsed()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for factor in given.factors:
        for shortcuts in (True, False):
            for found in compared(given, factor, shortcuts):
                rows.append(found)
                document = {"benchmark": "shortcuts", "machine": machine.describe(), "conditions": _conditions(given)}
                given.results.mkdir(parents=True, exist_ok=True)
                files.write_json(given.results / "shortcuts.json", {**document, "rows": rows})
                print(_line(found), flush=True)


def compared(given: argparse.Namespace, factor: int, shortcuts: bool) -> Iterator[dict[str, Any]]:
    """Yield the numbers at both sizes after the first phase, then after the second."""
    name, settings = f"f{factor}{'' if shortcuts else '-plain'}", dict(each.split("=", 1) for each in given.set)
    shared = {
        **MODELS[factor],
        "model.shortcuts": shortcuts,
        "data.source": given.data,
        **({"loss.lpips": given.lpips, "loss.lpips_weight": 0.5} if given.lpips else {}),
        **TRAINING,
    }
    phases: dict[str, dict[str, Any]] = {
        "whole": {"data.image_size": given.image_size, "train.images": given.images},
        "middle": {
            "data.image_size": 2 * given.image_size,
            "train.images": given.middle_images,
            "part": "middle",
            "start_from": given.folder / name,
        },
    }
    for phase, own in phases.items():
        label = name if phase == "whole" else f"{name}-middle"
        warmup = {"train.warmup": own["train.images"] // 20}
        trained = run(given.folder, "train-autoencoder", None, {**shared, **warmup, **own, **settings, "name": label})
        network = registry.load(trained.directory / "final")
        for size in (given.image_size, 2 * given.image_size):
            yield {
                "factor": factor,
                "shortcuts": shortcuts,
                "phase": phase,
                "size": size,
                "parameters": sum(p.numel() for p in network.parameters()),
                **reconstructed(given, label, size),
                "processor_seconds": spent(given.folder, label).get("train-autoencoder"),
            }


def reconstructed(given: argparse.Namespace, name: str, size: int) -> dict[str, float]:
    """Return how held-out images of a size come through a run's autoencoder."""
    measures: dict[str, Any] = {"of": "reconstructions", "image_size": size, "limit": given.limit}
    measures |= {"features": given.features, "weights": given.weights, "lpips": given.lpips}
    made = run(given.folder, "eval", None, {"name": name, **measures})
    numbers = json.loads((made.directory / "metrics.json").read_text())["numbers"]
    plain = {each.partition("[")[0]: value for each, value in numbers.items()}
    return {each: round(plain[each], 5) for each in MEASURED if each in plain}


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shortcuts", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of images")
    parser.add_argument("--weights", type=Path, required=True, help="of the features of Fréchet distances")
    parser.add_argument("--features", default="mobilenet-v2")
    parser.add_argument("--lpips", type=Path, help="folder with LPIPS weights, for training and comparing")
    parser.add_argument("--factors", nargs="+", type=int, default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--images", type=int, default=20_000, help="of the first phase")
    parser.add_argument("--middle-images", type=int, default=2_000, help="of the second phase")
    parser.add_argument("--limit", type=int, default=1_000, help="held-out images that are compared")
    parser.add_argument("--folder", type=Path, default=Path("runs/shortcuts"), help="of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of shortcuts.json")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of train-autoencoder: train.lr=5e-4")
    return parser.parse_args()


def _conditions(given: argparse.Namespace) -> dict[str, Any]:
    paths = {name: value.name if isinstance(value, Path) else value for name, value in vars(given).items()}
    return {name: value for name, value in paths.items() if name not in ("folder", "results")}


def _line(found: dict[str, Any]) -> str:
    numbers = "  ".join(f"{name} {found[name]:.4g}" for name in MEASURED if name in found)
    how = "with" if found["shortcuts"] else "without"
    return f"f{found['factor']} {how} shortcuts, {found['phase']} phase, {found['size']} px: {numbers}"


if __name__ == "__main__":
    main()
