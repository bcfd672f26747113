"""Images and latents of no meaning, held in memory, for steps that are taken to be measured."""

from typing import Any, cast

import numpy as np
import torch

from ...core.images.dataset import ImageSource
from ...core.images.loader import ImageLoader, Preparation
from ...core.images.sets import ImageSets
from ...core.images.settings import Data
from ...core.latents.sets import LatentSets
from ...core.system.transfer import to_device

COUNT = 64  # of either kind: enough for batches that differ, small enough for any size


def images(data: Data, num_classes: int, count: int = COUNT) -> ImageSets:
    """Return noise in the place of a run's images, at their size."""
    side = data.image_size
    noise = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    source = ImageSource(
        location="made up",
        class_names=tuple(f"class {number}" for number in range(num_classes)),
        names=[f"{number:04d}" for number in range(count)],
        labels=np.arange(count, dtype=np.int64) % num_classes,
        fetch=lambda row: noise[row],
        rows=np.arange(count, dtype=np.int64),
    )
    loader = ImageLoader(source, Preparation(side, cache_bytes=noise.nbytes))
    return ImageSets(loader, loader)


def latents(shape: tuple[int, int, int], num_classes: int, flips: bool, device: torch.device) -> LatentSets:
    """Return noise in the place of a run's latents (C, h, w), held on a device as those of most runs are on a GPU.

    flips: whether mirrored images were encoded as well.
    """
    held = cast(Any, _Latents(shape, num_classes, flips, device))
    return LatentSets(held, held, tuple(f"class {number}" for number in range(num_classes)))


class _Latents:
    """What a training reads of a set of latents."""

    has_std = False

    def __init__(self, shape: tuple[int, int, int], num_classes: int, flips: bool, device: torch.device) -> None:
        self.shape, self.has_flip = shape, flips
        self.labels = np.arange(COUNT, dtype=np.int64) % num_classes
        values = torch.randn(2, COUNT, *shape, generator=torch.Generator().manual_seed(0))
        self._values = values.half().to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray, flip: np.ndarray | None = None) -> torch.Tensor:
        """Gather latents as float32 (len(indices), C, h, w)."""
        mirrored = np.zeros(len(indices), dtype=np.int64) if flip is None else flip.astype(np.int64)
        rows = torch.from_numpy(mirrored * COUNT + np.asarray(indices))
        return self._values.flatten(0, 1).index_select(0, to_device(rows, self._values.device)).float()
