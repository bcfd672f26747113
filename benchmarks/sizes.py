"""The sizes at which projects are compared, and the batches that all of them see."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .digits import latents_of_digits

NUM_CLASSES, NUM_STEPS = 10, 1000


@dataclass(frozen=True)
class Size:
    """Of a DiT with patches of 2 over (4, side, side) latents; `images` are drawn at once in sampling."""

    depth: int
    width: int
    heads: int
    side: int
    batch: int
    images: int


SIZES: dict[str, Size] = {
    "tiny": Size(depth=6, width=256, heads=4, side=16, batch=64, images=32),
    "S/2": Size(depth=12, width=384, heads=6, side=32, batch=16, images=4),
}


class Batches:
    """The same batches for every project: latents, labels, whole-numbered times, noise."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.latents, self.labels = latents_of_digits(size.side)
        self.random = torch.Generator().manual_seed(0)

    def next(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return x0 (B, 4, side, side), labels (B,), times (B,) of 0 … 999, and noise like x0."""
        rows = torch.randint(len(self.latents), (self.size.batch,), generator=self.random)
        times = torch.randint(NUM_STEPS, (self.size.batch,), generator=self.random)
        x0 = self.latents[rows]
        return x0, self.labels[rows], times, torch.randn(x0.shape, generator=self.random)
