"""The grid of samples that a training draws along the way, always of the same conditions and seeds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..conditioning.conditioning import Conditioning
from ..diffusion import conditions
from ..distributed import processes
from ..images.decode import write_png
from ..images.grid import grid, scale_for
from ..pipeline.generator import Generator
from .settings import Preview


def draw_preview(generator: Generator, conditioning: Conditioning, preview: Preview) -> tuple[np.ndarray, list[str]]:
    """Draw `per_class` images of the first groups. Returns uint8 (N, H, W, C), row by row, and the rows' names."""
    # Seeds 0, 1, … again in every row: pictures of all stages of the training show the same noise.
    request = conditioning.groups()
    names = list(request.titles[: preview.classes])
    rows = np.repeat(np.arange(len(names)), preview.per_class)
    return generator.draw(
        conditions.index(request.cond, rows), np.tile(np.arange(preview.per_class), len(names))
    ), names


def write_preview(
    folder: Path, images_seen: int, images: np.ndarray, rows: Sequence[str], columns: Sequence[str] | int
) -> None:
    """Write images, uint8 (N, H, W, C), row by row, as a grid to `samples/` in a training's folder, by one process.

    rows: their titles. columns: theirs, or how many there are.
    """
    if not processes.world().is_main:  # The others only computed their part of the network.
        return
    (folder / "samples").mkdir(exist_ok=True)
    titles = None if isinstance(columns, int) else [*columns]
    width = columns if isinstance(columns, int) else len(columns)
    picture = grid(images, columns=width, row_labels=[*rows], column_labels=titles, scale=scale_for(images), lines=6)
    write_png(folder / "samples" / f"{images_seen:010d}.png", picture)
