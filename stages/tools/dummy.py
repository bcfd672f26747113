"""Dummy images and latents, held in memory, for measuring steps."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from typing_extensions import Self

from ...core.conditioning.conditioning import Conditioning
from ...core.conditioning.labels import LABELS, LabelConditioning
from ...core.diffusion.conditions import Cond
from ...core.images.dataset import ImageSource
from ...core.images.loader import ImageLoader, Preparation
from ...core.images.order import mirrored
from ...core.images.sets import ImageSets
from ...core.images.settings import Data
from ...core.latents.dataset import VALIDATION_SEED, LatentSets
from ...core.latents.fields import FLIP, LABEL, LATENT, Field
from ...core.system.transfer import to_device

COUNT = 64  # of either kind: enough for batches that differ, small enough for any size


def images(data: Data, num_classes: int, count: int = COUNT) -> ImageSets:
    """Return noise instead of a run's images, at their size."""
    size = data.size
    noise = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    source = ImageSource(
        location="dummy",
        class_names=_class_names(num_classes),
        names=[f"{number:04d}" for number in range(count)],
        labels=np.arange(count, dtype=np.int64) % num_classes,
        fetch=lambda row: noise[row],
        rows=np.arange(count, dtype=np.int64),
    )
    loader = ImageLoader(source, Preparation(size, cache_bytes=noise.nbytes, channels=data.channels))
    return ImageSets(loader, loader)


def latents(
    shape: tuple[int, int, int],
    num_classes: int,
    flips: bool,
    device: torch.device,
    conditioning: Conditioning | None = None,
) -> LatentSets:
    """Return noise instead of a run's latents (C, h, w), held on a device as for most runs on a GPU.

    flips: whether mirrored images were encoded as well. conditioning: on something else than classes.
    """
    values = torch.randn(2, COUNT, *shape, generator=torch.Generator().manual_seed(0)).half().to(device)
    names = (LATENT, FLIP + LATENT) if flips else (LATENT,)
    fields = {name: Field("float16", shape) for name in names} | {LABEL: Field("int64")}
    conditioning = conditioning or LabelConditioning(_class_names(num_classes))
    held = _Latents(shape, conditioning, fields, values.flatten(0, 1))
    return LatentSets(held, held, _class_names(num_classes))


def with_tokens(sets: LatentSets, count: int, codebook_size: int) -> LatentSets:
    """Return the same with random tokens beside each latent."""
    codes = torch.randint(codebook_size, (COUNT, count), generator=torch.Generator().manual_seed(0))
    held = replace(sets.train, codes=codes)  # type: ignore[type-var]
    return replace(sets, train=held, val=held)


@dataclass(frozen=True)
class _Latents:
    """A `LatentDataset` of noise. values: float16 (2 COUNT, C, h, w), the second half of mirrored images.

    codes: int64 (COUNT, L), where there are tokens.
    """

    shape: tuple[int, int, int]
    conditioning: Conditioning
    fields: dict[str, Field]
    values: torch.Tensor
    codes: torch.Tensor | None = None

    @property
    def labels(self) -> np.ndarray:
        return np.arange(COUNT, dtype=np.int64) % max(len(self.conditioning.class_names), 1)

    def __len__(self) -> int:
        return COUNT

    def batch(
        self, samples: np.ndarray, positions: np.ndarray, seed: int, flips: bool = True, purpose: str = "posterior"
    ) -> torch.Tensor:
        flip = mirrored(positions, seed) if flips and FLIP + LATENT in self.fields else np.zeros(len(samples), bool)
        rows = torch.from_numpy(flip * COUNT + np.asarray(samples))
        return self.values.index_select(0, to_device(rows, self.values.device)).float()

    def tokens(self, samples: np.ndarray, positions: np.ndarray, seed: int, flips: bool = True) -> torch.Tensor:
        assert self.codes is not None, "latents with tokens"
        return self.codes[torch.from_numpy(np.asarray(samples))]

    def cond(self, samples: np.ndarray, positions: np.ndarray, seed: int = VALIDATION_SEED) -> Cond:
        if LABELS in self.conditioning.fields:
            return {LABELS: torch.from_numpy(self.labels[samples])}
        return self.conditioning.null(len(samples), torch.device("cpu"))

    def conditioned(self, conditioning: Conditioning) -> Self:
        return replace(self, conditioning=conditioning)


def _class_names(count: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(count))
