"""Latents by position: what a training reads, whatever their source.

Every draw is a function of (seed, purpose, position): which samples are mirrored, and what is drawn from a posterior.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from .. import seeds
from ..conditioning.conditioning import Conditioning
from ..diffusion.conditions import Cond
from ..images.order import pieces, spread
from ..system.transfer import to_device
from .fields import MASK, Field

VALIDATION_SEED = 0
_AT_ONCE = 64


class LatentDataset(Protocol):
    """N samples of latents, with the fields that codec and data offered."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a latent."""

    @property
    def fields(self) -> Mapping[str, Field]:
        """The fields of each sample."""

    @property
    def conditioning(self) -> Conditioning:
        """What `cond` means; whether it has a null is a matter of the training."""

    @property
    def labels(self) -> np.ndarray | None:
        """The class of each sample, int64 (N,), where they have classes, conditioned on these or not."""

    def __len__(self) -> int: ...

    def batch(
        self, samples: np.ndarray, positions: np.ndarray, seed: int, flips: bool = True, purpose: str = "posterior"
    ) -> Tensor:
        """Return latents of samples (B,) as positions (B,) of the stream draw them, float32 (B, C, h, w).

        flips: half of the samples are mirrored, where mirrored images were encoded. purpose: of the draws from the
        posterior, where there is one.
        """

    def cond(self, samples: np.ndarray, positions: np.ndarray, seed: int = VALIDATION_SEED) -> Cond:
        """Return what samples (B,) are conditioned on, batch first: `labels`, int64 (B,), where they are labelled.

        Where a sample has several captions, seed and positions (B,) decide which.
        """

    def conditioned(self, conditioning: Conditioning) -> Self:
        """Return the same samples, whose conditions this conditioning reads."""


class MaskedDataset(LatentDataset, Protocol):
    """A `LatentDataset` with the field MASK."""

    def weights(self, samples: np.ndarray, positions: np.ndarray, seed: int, flips: bool = True) -> Tensor:
        """Return how much each latent pixel's error counts, float32 (B, 1, h, w), of mean 1 in each sample.

        flips: as of `batch`, and of the same samples.
        """


class CroppedDataset(LatentDataset, Protocol):
    """A `LatentDataset` with the field CROPS."""

    @property
    def num_crops(self) -> int:
        """How many crops there are of each image."""

    def cropped(
        self, samples: np.ndarray, positions: np.ndarray, seed: int, crops: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Return latents as `batch` does, and the conditions of crops, float32 (B, 3).

        crops: which of its crops is seen of a sample in the place of the whole image, 1 … num_crops, or 0; int64 (B,).
        """


class TokenDataset(LatentDataset, Protocol):
    """A `LatentDataset` whose codec has several maps of tokens, coarse to fine."""

    def tokens(self, samples: np.ndarray, positions: np.ndarray, seed: int, flips: bool = True) -> Tensor:
        """Return the tokens of samples (B,), all maps one after the other, row by row, int64 (B, L).

        flips: as of `batch`, and of the same samples.
        """


def draw(mean: Tensor, std: Tensor | None, positions: np.ndarray, seed: int, purpose: str) -> Tensor:
    """Draw latents from posteriors of mean and std (B, C, h, w); return the mean where std is None."""
    if std is None:
        return mean
    noise = seeds.normal(seed, purpose, positions, tuple(mean.shape[1:]))
    return mean + std * to_device(noise, mean.device)


def weights_of(
    source: LatentDataset, samples: np.ndarray, positions: np.ndarray, seed: int, flips: bool = True
) -> Tensor | None:
    """Return the weights of a `MaskedDataset`; None for a data set without masks."""
    if MASK not in source.fields:
        return None
    return cast(MaskedDataset, source).weights(samples, positions, seed, flips)


@dataclass(frozen=True)
class LatentSets:
    """Training and validation latents. class_names: of `labels`, conditioned on these or not."""

    train: LatentDataset
    val: LatentDataset
    class_names: tuple[str, ...] = ()

    @property
    def conditioning(self) -> Conditioning:
        return self.train.conditioning

    def labels(self) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """Return the class of each training sample, and the names of classes; None where there are none."""
        found = self.train.labels
        return None if found is None else (found, self.class_names)


@dataclass(frozen=True)
class HeldOut:
    """Some validation latents: x0 and noise (B, C, h, w), their condition, and numbers in (0, 1) for times (B,).

    weights: of the errors of latent pixels, where masks were encoded.
    """

    x0: Tensor
    noise: Tensor
    cond: Cond
    evenly: Tensor
    weights: Tensor | None = None

    def normal(self, purpose: str) -> Tensor:
        """Return the noise, for any purpose."""
        return self.noise

    def uniform(self, purpose: str) -> Tensor:
        """Return the evenly spread numbers, for any purpose."""
        return self.evenly


def held_out_latents(source: LatentDataset, samples: np.ndarray) -> Tensor:
    """Return validation latents of samples (B,): never mirrored, and the same whatever the run's seed."""
    return source.batch(samples, samples, VALIDATION_SEED, flips=False, purpose="validation posterior")


def held_out(source: LatentDataset, limit: int) -> Iterator[HeldOut]:
    """Yield at most `limit` validation samples in batches, the numbers for their times evenly spread over all of them.

    Samples, numbers and noise are the same whatever the run's seed, so that runs of one loss can be compared. The
    samples come in a random order: by name, each class would have times of its own.
    """
    chosen = spread(len(source), limit)
    evenly = torch.from_numpy((np.arange(len(chosen)) + 0.5) / len(chosen))
    for some, times in zip(pieces(chosen, _AT_ONCE), evenly.split(_AT_ONCE), strict=True):
        yield HeldOut(
            x0=held_out_latents(source, some),
            noise=seeds.normal(VALIDATION_SEED, "validation noise", some, source.shape),
            cond=source.cond(some, some),
            evenly=times,
            weights=weights_of(source, some, some, VALIDATION_SEED, flips=False),
        )
