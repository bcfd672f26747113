"""What edits keep: anagrams and inpainted digits as a classifier trained elsewhere reads them; errors of inversion."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldm.core.autoencoders import registry
from ldm.core.diffusion.views import VIEWS
from ldm.core.features.registry import open_extractor
from ldm.core.images.decode import as_tensor, decode, to_training, write_png
from ldm.core.images.sources import open_source

from .options import Options

STEPS = ["--steps", "25"]
COUNT, SIDE, BOX = 100, 32, (4, 16, 24, 12)  # the lower half of a digit
PAIRS = (
    *(("6", "9", "rotate180", "latents"), ("6", "9", "rotate180", "pixels"), ("2", "5", "flip", "latents")),
    *(("2", "5", "flip", "pixels"), ("7", "1", "transpose", "latents"), ("7", "1", "transpose", "pixels")),
    *(("0", "8", "rotate90", "latents"), ("0", "8", "rotate90", "pixels"), ("1", "7", "jigsaw", "latents")),
    *(("3", "8", "negate", "latents"), ("3", "8", "negate", "pixels")),
)


def measure(options: Options) -> dict[str, Any]:
    """Edit digits of a finished run, and let an independent classifier read them."""
    run = Path("runs") / options.run
    if not options.lenet.is_file():
        return {"skipped": f"no classifier at {options.lenet}"}
    if not (run / "dit" / "final").is_dir():
        return {"skipped": f"no finished run in {run}: make pipelines"}
    facts: dict[str, Any] = {"images": COUNT, "steps": 25}

    # Anagrams: one class upright, the other through the view.
    for first, second, view, space in PAIRS:
        words = ["--class", first, "--class", second, "--view", view, "--space", space, "--num", str(COUNT)]
        folder = _made(options, "anagram", "anagrams", *words)
        drawn = _read(sorted(folder.glob("0*.png")))
        viewed = VIEWS[view].of(drawn, torch.zeros(1))
        both = (_classes(options, drawn) == int(first)) & (_classes(options, viewed) == int(second))
        facts[f"{first} and {second} by {view}, in {space}: both read right, of {COUNT}"] = int(both.sum())

    # Inpainting: the lower half of held-out digits, drawn anew as their class.
    digits = _write_digits(Path("runs") / "digits")
    for resample in ("1", "5"):
        kept, equal = 0, 0
        for label in range(10):
            box = ["--box", ",".join(map(str, BOX)), "--class", str(label), "--resample", resample, "jump=4"]
            folder = _made(options, "edit", "edits", str(digits / str(label)), *box)
            drawn = _read(sorted(folder.glob("0*.png")))
            kept += int((_classes(options, drawn) == label).sum())
            outside = torch.ones(SIDE, SIDE, dtype=torch.bool)
            x, y, width, height = BOX
            outside[y : y + height, x : x + width] = False
            before = _read(sorted((digits / str(label)).iterdir()))
            equal += int((drawn == before)[..., outside].all(dim=(1, 2)).sum())
        facts[f"inpainted, resample {resample}: class kept, of {COUNT}"] = kept
        facts[f"inpainted, resample {resample}: outside equal to the byte, of {COUNT}"] = equal

    # Inversion of the same digits without a class, and their reconstruction.
    for steps in ("25", "50"):
        for refine in ("0", "1", "2"):
            words = [str(digits), "--inversion", f"refine={refine}", "--steps", steps]
            metadata = _manifest(_made(options, "edit", "edits", *words))["facts"]
            facts[f"inverted in {steps} steps, {refine} corrections: PSNR"] = round(metadata["psnr"], 2)
            facts["PSNR of the autoencoder alone"] = round(metadata["psnr_of_autoencoder"], 2)
    images = _read(sorted(digits.rglob("*.png")))
    return {"facts": {**facts, **equivariance(registry.load(run / "vqvae" / "final").eval(), images)}}


@torch.no_grad()
def equivariance(autoencoder: Any, images: torch.Tensor) -> dict[str, float]:
    """Return how far the latent of a view is from the view of the latent: ‖E(v x) − v E(x)‖ / ‖E(x)‖, by view."""
    latents = autoencoder.encode(images)
    found = {}
    for name, view in VIEWS.items():
        if name != "none" and latents.shape[-1] % view.pieces == 0:
            error = (autoencoder.encode(view.apply(images)) - view.apply(latents)).norm() / latents.norm()
            found[f"latent of a {name} against the {name} of a latent"] = round(float(error), 3)
    return found


def _made(options: Options, command: str, kind: str, *words: str) -> Path:
    """Run a command into a folder of its own, and return it."""
    label = "measured"
    steps = [] if "--steps" in words else STEPS
    line = [sys.executable, "-m", "ldm", command, *words, *steps, "--name", options.run, "--label", label, "--replace"]
    subprocess.run([*line, "--quiet"], check=True)
    return Path("runs") / options.run / kind / label


def _manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def _read(paths: Sequence[Path]) -> torch.Tensor:
    return as_tensor(np.stack([decode(path.read_bytes(), str(path)) for path in paths]))


def _classes(options: Options, images: torch.Tensor) -> np.ndarray:
    extractor = open_extractor("lenet", options.lenet)
    return np.asarray(extractor.logits(images).argmax(dim=1))


def _write_digits(folder: Path) -> Path:
    """Write ten held-out digits of each class as squares of the model, in folders of their classes."""
    source = open_source("mnist", "test")
    for label in range(10):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        for number, index in enumerate(np.flatnonzero(source.labels == label)[: COUNT // 10]):
            write_png(folder / str(label) / f"{number}.png", to_training(source.picture(int(index)), SIDE))
    return folder
