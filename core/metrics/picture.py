"""Pictures of numbers: which class images were read as."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from .. import files
from ..images.grid import drawable


def confusion_picture(read_as: torch.Tensor, classes: torch.Tensor, names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix as a PNG: rows are the classes asked for, columns those read, shares of each row.

    read_as, classes: int64 (N,), indices into names.
    """
    from matplotlib.figure import Figure

    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, (classes.cpu().numpy(), read_as.cpu().numpy()), 1)
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    side = min(12.0, 2.5 + 0.45 * len(names))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="read as", ylabel="class asked for")
    if len(names) <= 30:
        shown = [drawable(name) for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=45, ha="right", parse_math=False)  # "$5" is no formula.
        axes.set_yticks(range(len(names)), shown, parse_math=False)
    if len(names) <= 12:
        for (row, column), share in np.ndenumerate(shares):
            if counts[row, column]:
                ink = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=ink, fontsize=7)
    files.write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))
