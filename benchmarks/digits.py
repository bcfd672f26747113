"""Something to learn: the built-in digits, cut into four channels as if they were latents."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.core.images.loader import ImageLoader, Preparation
from ldm.core.images.sources import open_splits


def latents_of_digits(side: int, count: int = 2048) -> tuple[Tensor, Tensor]:
    """Return float32 (count, 4, side, side) of about unit deviation, and labels, int64 (count,)."""
    source, _ = open_splits("mnist")
    loader = ImageLoader(source.subset(np.arange(count)), Preparation(image_size=32))
    pixels = torch.from_numpy(loader.batch(np.arange(count))[..., :1]).permute(0, 3, 1, 2).float()
    large = F.interpolate(pixels, size=2 * side, mode="bilinear")
    latents = F.pixel_unshuffle((large - large.mean()) / large.std(), 2)
    return latents, torch.from_numpy(loader.labels)
