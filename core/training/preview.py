"""The grid of samples that a training draws along the way, always of the same conditions and seeds."""

import numpy as np

from ..conditioning.conditioning import Conditioning
from ..diffusion import conditions
from ..pipeline.generator import Generator
from .settings import Preview


def draw_preview(generator: Generator, conditioning: Conditioning, preview: Preview) -> tuple[np.ndarray, list[str]]:
    """Draw `per_class` images of the first groups. Returns uint8 (N, H, W, 3), row by row, and the rows' names."""
    # Seeds 0, 1, … again in every row: pictures of all stages of the training show the same noise.
    request = conditioning.groups()
    names = list(request.titles[: preview.classes])
    rows = np.repeat(np.arange(len(names)), preview.per_class)
    return generator.draw(
        conditions.index(request.cond, rows), np.tile(np.arange(preview.per_class), len(names))
    ), names
