"""Latents of images that are encoded on the fly: pixels themselves, which need not be written again."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from ..autoencoders.codec import Autoencoder
from ..conditioning.conditioning import Conditioning
from ..conditioning.labels import LABELS
from ..images.loader import ImageLoader, training_images
from ..images.sets import ImageSets
from ..images.weights import loss_weights, shrunk, training_masks
from ..system.precision import Policy
from ..system.transfer import to_device
from .conditions import ImageCondition
from .dataset import VALIDATION_SEED, Cond, LatentSets, draw
from .fields import FLIP, LABEL, LATENT, MASK, Field


@dataclass(frozen=True)
class EncodedImages:
    """A `LatentDataset` of images, encoded on every access, on the policy's device.

    Samples, flips and draws are those of shards of the same images: order, resuming and conditions do not differ, and
    latents by no more than the rounding of shards to float16. flips: whether training may mirror images. conditioning:
    labels, another condition, or none. condition: what reads another one.
    """

    images: ImageLoader
    autoencoder: Autoencoder
    flips: bool
    policy: Policy
    conditioning: Conditioning
    condition: ImageCondition | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.autoencoder.latent_shape(self.images.prepare.image_size)

    @property
    def fields(self) -> dict[str, Field]:
        latent = Field("float32", self.shape)
        names = (LATENT, FLIP + LATENT) if self.flips else (LATENT,)
        masks = {} if self.images.source.masks is None else {MASK: Field("uint8", self.shape[1:])}
        return {**dict.fromkeys(names, latent), LABEL: Field("int64"), **masks}

    @property
    def labels(self) -> np.ndarray:
        """Those of the images."""
        return self.images.labels

    def __len__(self) -> int:
        return len(self.images)

    @torch.no_grad()
    def batch(
        self, samples: np.ndarray, positions: np.ndarray, seed: int, flips: bool = True, purpose: str = "posterior"
    ) -> Tensor:
        """Return latents, float32 (B, C, h, w); see `LatentDataset`."""
        pixels = training_images(self.images, samples, positions, seed, flips and self.flips)
        with self.policy.autocast():
            mean, std = self.autoencoder.posterior(to_device(pixels, self.policy.device))
        return draw(mean, std, positions, seed, purpose)

    def weights(self, samples: np.ndarray, positions: np.ndarray, seed: int, flips: bool = True) -> Tensor:
        """Return those of the images' masks; see `MaskedDataset`."""
        masks = training_masks(self.images, samples, positions, seed, flips and self.flips)
        return loss_weights(shrunk(masks, self.autoencoder.downsampling))

    def cond(self, samples: np.ndarray, positions: np.ndarray, seed: int = VALIDATION_SEED) -> Cond:
        """Return the labels; those of images without folders are all of the one class that `encode` gives them.

        Other conditions are read as `encode` would write them.
        """
        if LABELS in self.conditioning.fields:
            return {LABELS: torch.from_numpy(self.images.labels[samples])}
        if self.condition is not None:
            found = self.condition.fields(self.conditioning, self.images.source)(samples.tolist())
            return self.conditioning.read(lambda name: [arrays[name] for arrays, _ in found], positions, seed)
        return {}

    def conditioned(self, conditioning: Conditioning) -> Self:
        """Return the same images, whose conditions this conditioning reads."""
        return replace(self, conditioning=conditioning)


def latents_of_images(
    images: ImageSets,
    autoencoder: Autoencoder,
    flips: bool,
    policy: Policy,
    conditioning: Conditioning,
    condition: ImageCondition | None = None,
) -> LatentSets:
    """Return the latents of training and validation images, which are mirrored in training only, if at all."""
    train = EncodedImages(images.train, autoencoder, flips, policy, conditioning, condition)
    val = EncodedImages(images.val, autoencoder, False, policy, conditioning, condition)
    return LatentSets(train, val, images.class_names)
