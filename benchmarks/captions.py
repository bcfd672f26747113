"""What decides whether prompts are followed: `python -m benchmarks.captions`.

Denoisers of about the same size learn the built-in scenes from the same images in the same order, as the recipe trains
them but for fewer images. One thing at a time is changed: which captions they are shown, what reads the captions, and
by which network. Each then draws the built-in prompts, and `ldm eval` counts how many of the images are right. All of
it runs on one core. What is finished is kept, what was stopped goes on, and the result is written after each training.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ldm.cli.recipe import read_recipe
from ldm.core import files
from ldm.core.conditioning.scenes import CATEGORIES
from ldm.core.denoisers import registry
from ldm.core.runs.metrics_log import METRICS, read
from ldm.core.settings.recipe_file import leaves

from . import machine
from .__main__ import RESULTS
from .commands import run, spent

RECIPE = "scenes"
FROZEN = "a frozen encoder reads them"
DETAILED_FIRST = "detailed ones first, then a tenth"
SHARES = {"detailed and short ones, half and half": 0.5, "short ones alone": 0.0, "detailed ones alone": 1.0}
NETWORKS: dict[str, dict[str, Any]] = {
    "MM-DiT, two streams": {"preset": "mmdit-xs", "depth": 4, "text_layers": 0},
    "CrossDiT, cross-attention": {"preset": "dit-cross-xs", "depth": 4, "text_layers": 2},
    "DiT, text in sequence": {"preset": "dit-text-xs", "depth": 5, "text_layers": 2},
}
CHOICES = (DETAILED_FIRST, *SHARES, FROZEN, *NETWORKS)
FIRST, FALLING, SHARE = 0.5, 0.3, 0.1  # of all images: detailed alone, then fewer of them; and the share at last
KINDS = tuple(kind.replace(" ", "_") for kind in (*CATEGORIES, "overall"))


def main() -> None:
    """Train each choice, and write what is known after it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.captions", description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(CHOICES), choices=CHOICES, metavar="CHOICE")
    parser.add_argument("--images", type=int, default=80_000, help="of each training")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--encoder", type=Path, help=f"folder of transformers; without it, {FROZEN!r} is left out")
    parser.add_argument(
        "--run", type=Path, help="finished run of the recipe with autoencoder and latents; else made here"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/captions"), help="of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of captions.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    source = given.run or made(given.folder)
    for seed in given.seeds:
        for choice in given.only:
            if choice != FROZEN or given.encoder:
                latents = frozen(given.folder, source, given.encoder) if choice == FROZEN else source / "latents"
                found = row(given.folder, choice, latents, given.images, seed)
                write(given.results / "captions.json", found)
                print(json.dumps(found), flush=True)


def made(folder: Path) -> Path:
    """Make autoencoder and latents by the recipe. Returns the folder of the run."""
    for command in ("train-autoencoder", "encode"):
        run(folder, command, RECIPE, {"name": "latents"})
    return folder / "latents"


def frozen(folder: Path, source: Path, encoder: Path) -> Path:
    """Encode the same images with captions as a frozen encoder reads them. Returns the folder of the latents."""
    own = {"name": "frozen", "autoencoder": source / "autoencoder", "text.encoder": [encoder]}
    return run(folder, "encode", RECIPE, own).directory


def settings(choice: str, images: int) -> dict[str, Any]:
    """Return the settings of a training: the recipe's, with the choice in the place of what it is compared with."""
    recipe = dict(leaves(read_recipe(RECIPE).tree["train-denoiser"]))
    if choice in NETWORKS:
        common = {"width": recipe["model.width"], "heads": recipe["model.heads"], "patch_size": 1}
        recipe = {key: value for key, value in recipe.items() if not key.startswith("model.")}
        recipe |= {f"model.{key}": value for key, value in {**NETWORKS[choice], **common}.items()}
    if choice == FROZEN:
        del recipe["model.text_layers"]
    share = SHARES.get(choice, SHARE)
    first, falling = (0.0, 0.0) if choice in SHARES else (FIRST, FALLING)
    return {
        **recipe,
        "synthetic_share": share,
        "synthetic_first": round(first * images),
        "synthetic_falling": round(falling * images),
        "train.images": images,
        "preview.every": 0,
    }


def row(folder: Path, choice: str, latents: Path, images: int, seed: int) -> dict[str, Any]:
    """Train by a choice, draw the prompts, and return what came out. Held-out losses are of the same captions."""
    name = f"{choice.replace(',', '').replace(' ', '-')}-{images}-{seed}"
    own = {"name": name, "latents": latents, "seed": seed, **settings(choice, images)}
    trained = run(folder, "train-denoiser", None, own).directory
    run(folder, "sample", RECIPE, {"name": name, "label": "prompts", "num": 4})
    judged = run(folder, "eval", RECIPE, {"name": name, "samples": "prompts"}).directory
    numbers = json.loads((judged / "metrics.json").read_text())["numbers"]
    network = registry.load(trained / "final")
    return {
        "choice": choice,
        "images": images,
        "seed": seed,
        "parameters": sum(p.numel() for p in network.parameters()),
        "val_loss": [each["val_loss"] for each in read(trained / METRICS) if "val_loss" in each][-1],
        "processor_seconds": spent(folder, name).get("train-denoiser"),
        "right": {kind: round(numbers[f"{kind}[scenes]"], 4) for kind in KINDS},
    }


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Add a row to the result, or renew it there."""
    rows: Sequence[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.is_file() else []
    same = ("choice", "images", "seed")
    others = [each for each in rows if any(each[key] != found[key] for key in same)]
    ordered = sorted(
        [*others, dict(found)], key=lambda each: (each["images"], CHOICES.index(each["choice"]), each["seed"])
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, {"benchmark": "captions", "machine": machine.describe(), "rows": ordered})


if __name__ == "__main__":
    main()
