"""Loss of next-scale transformers over their size: `python -m benchmarks.var_scaling`.

Transformers of several depths d, 64 d wide with d heads (Tian et al. 2024), learn the same tokens in the same order,
one after the other on one core. Held-out loss over parameters is a straight line in logarithms where it follows a power
law. The lowest loss of each training counts, as small data are learned by heart later. What is finished is kept, and
what was stopped goes on; the result is written after each depth.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldm.core import files
from ldm.core.autoregressive import registry
from ldm.core.figures import Line, Panel, draw, line
from ldm.core.images.decode import write_png
from ldm.core.runs.metrics_log import METRICS, read

from . import machine
from .__main__ import RESULTS
from .commands import configured, run, spent

DEPTHS = (2, 3, 4, 6, 8)
PICTURE = "var-scaling.png"
_DATA = ("train-autoencoder", "encode")


def main() -> None:
    """Train each depth, and write what is known after it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.var_scaling", description=__doc__)
    parser.add_argument("--recipe", default="mnist-var", help="with an autoencoder of tokens and a train-var section")
    parser.add_argument("--depths", nargs="+", type=int, default=list(DEPTHS))
    parser.add_argument("--latents", type=Path, help="finished tokens; by default made here by the recipe")
    parser.add_argument("--folder", type=Path, default=Path("runs/var-scaling"), help="of the runs and the picture")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of var_scaling.json")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of train-var: train.images=40k")
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = dict(setting.split("=", 1) for setting in given.set)
    latents = given.latents
    if latents is None:
        for command in _DATA:
            latents = run(given.folder, command, given.recipe, {"name": "tokens"}).directory
    rows: list[dict[str, Any]] = []
    for depth in sorted(given.depths):
        own = {"name": f"d{depth}", "latents": latents, **shape(depth), "preview.every": 0, **settings}
        rows.append(row(given.folder, depth, run(given.folder, "train-var", given.recipe, own).directory))
        config = configured("train-var", given.recipe, own)
        conditions = {"recipe": given.recipe, "images": config.train.images, "lr": config.train.lr, **settings}
        write(given.folder / PICTURE, given.results / "var_scaling.json", conditions, rows)
        print(rows[-1], flush=True)


def shape(depth: int) -> dict[str, Any]:
    """Return the settings of a depth, as published."""
    return {"model.preset": "var-d2", "model.depth": depth, "model.width": 64 * depth, "model.heads": depth}


def row(folder: Path, depth: int, trained: Path) -> dict[str, Any]:
    """Return what a training gave: parameters of the blocks, the lowest held-out loss, of all scales and of the last.

    Losses are in nats a token. `curve` has the held-out loss after how many images.
    """
    network = registry.load(trained / "final")
    curve = [(each["images"], each) for each in read(trained / METRICS) if "val_loss" in each]
    images, best = min(curve, key=lambda point: point[1]["val_loss"])
    losses = {name: best[name] for name in ("val_loss", f"val_loss_{network.config.scales[-1]}")}
    return {
        "depth": depth,
        "parameters": sum(p.numel() for p in network.blocks.parameters()),
        "all_parameters": sum(p.numel() for p in network.parameters()),
        "best_at": images,
        **losses,
        "processor_seconds": spent(folder, f"d{depth}").get("train-var"),
        "curve": [(seen, each["val_loss"]) for seen, each in curve],
    }


def fit(rows: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    """Return the power law L = factor · N^exponent through a number of each row, by least squares of logarithms.

    correlation: of the logarithms, -1 where all points lie on a falling line.
    """
    x, y = (np.log([each[key] for each in rows]) for key in ("parameters", name))
    exponent, offset = np.polyfit(x, y, 1)
    correlation = float(np.corrcoef(x, y)[0, 1])
    return {"exponent": float(exponent), "factor": math.exp(offset), "correlation": correlation}


def write(picture: Path, results: Path, conditions: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Write the result so far, and from two depths on the fits and their picture."""
    names = [name for name in rows[0] if name.startswith("val_loss")]
    fits = {name: fit(rows, name) for name in names} if len(rows) > 1 else {}
    document = {"benchmark": "var_scaling", "machine": machine.describe(), "conditions": conditions}
    results.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(results, {**document, "fits": fits, "rows": [*rows]})
    if fits:
        write_png(picture, draw([_panel(rows, fits), _curves(rows)], "inside", width=5.0))


def _panel(rows: Sequence[dict[str, Any]], fits: dict[str, dict[str, float]]) -> Panel:
    """Draw the losses over parameters, and the power laws through them."""
    sizes = [each["parameters"] for each in rows]
    lines = []
    for colour, (name, law) in enumerate(fits.items()):
        which = "all maps" if name == "val_loss" else "last map"
        lines.append(Line(which, sizes, [each[name] for each in rows], colour, "o"))
        drawn = [law["factor"] * size ** law["exponent"] for size in sizes]
        lines.append(Line(f"∝ N^{law['exponent']:.3f}", sizes, drawn, colour, "--", 1.2))
    return Panel("lowest held-out loss", "parameters of the blocks, N", "nats a token", lines, log="xy")


def _curves(rows: Sequence[dict[str, Any]]) -> Panel:
    lines = [line(f"d{each['depth']}", each["curve"], colour) for colour, each in enumerate(rows)]
    return Panel("held-out loss, all maps", "images seen", "nats a token", lines)


if __name__ == "__main__":
    main()
