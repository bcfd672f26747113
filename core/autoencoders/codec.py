"""An autoencoder as the rest of the project sees it: it owns its latent space.

A codec (the VQ-VAE, or a pretrained network) maps images to raw latents and back. `Autoencoder` wraps one and adds
the measured mean and deviation of each latent channel, so that outside of it latents have zero mean and unit
deviation, and nobody else multiplies by a scale.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import ConfigError, DataError
from ..latents.statistics import LatentStatistics, evening_rotation


class Codec(Protocol):
    """A network between images (B, 3, H, W) in [-1, 1] and raw latents (B, C, H / downsampling, W / downsampling)."""

    @property
    def kind(self) -> str:
        """The name under which `registry` saves and loads it."""

    @property
    def latent_channels(self) -> int: ...

    @property
    def downsampling(self) -> int: ...

    def to_latent(self, images: Tensor) -> Tensor:
        """Return raw latents; of a KL autoencoder, the posterior's mean."""

    def from_latent(self, latents: Tensor) -> Tensor:
        """Return images from raw latents."""

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return mean and deviation of the posterior over raw latents; None where latents are not random."""

    def rotate(self, rotation: Tensor) -> bool:
        """Turn the raw latent space: z becomes R z, codes with it, and what is decoded stays the same.

        rotation: orthogonal, float64 (C, C). Returns False, and does nothing, where there is no codebook.
        """

    def describe(self) -> Mapping[str, Any]:
        """Return the configuration from which `registry` rebuilds it, JSON."""

    def state_dict(self) -> dict[str, Tensor]: ...


class Autoencoder(nn.Module):
    """A codec and the statistics of its latents; `latent_mean` 0 and `latent_std` 1 until they are measured."""

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec
        self.register_buffer("latent_mean", torch.zeros(codec.latent_channels))
        self.register_buffer("latent_std", torch.ones(codec.latent_channels))

    @property
    def latent_channels(self) -> int:
        return self.codec.latent_channels

    @property
    def downsampling(self) -> int:
        return self.codec.downsampling

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """Return (C, h, w) of the latents of square images. Raises ConfigError if the size does not divide."""
        if image_size % self.downsampling:
            below = image_size // self.downsampling * self.downsampling
            raise ConfigError(
                f"--image-size {image_size} is not a multiple of {self.downsampling}, the autoencoder's downsampling",
                f"use {below or self.downsampling} or {below + self.downsampling}",
            )
        side = image_size // self.downsampling
        return self.latent_channels, side, side

    def encode(self, images: Tensor) -> Tensor:
        """Return normalised latents (B, C, h, w) of images (B, 3, H, W) in [-1, 1], float32; no draw is made."""
        return self._normalise(self.codec.to_latent(images))

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (B, 3, H, W), float32 clamped to [-1, 1], from normalised latents (B, C, h, w)."""
        raw = latents.float() * _per_channel(self.latent_std) + _per_channel(self.latent_mean)
        return self.codec.from_latent(raw).float().clamp(-1, 1)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return mean and deviation of the normalised latents, float32; the deviation is None where there is none."""
        moments = self.codec.moments(images)
        if moments is None:
            return self.encode(images), None
        mean, std = moments
        return self._normalise(mean), std.float() / _per_channel(self.latent_std)

    def normalise_by(self, measured: LatentStatistics) -> None:
        """Normalise raw latents by what was measured of them; see `set_statistics` for errors.

        A latent space with a codebook is first rotated so that all channels deviate alike: divided by one number, the
        nearest code is the same in normalised latents as in raw ones, as a denoiser's even errors and libraries that
        look codes up in what they are handed would have it.
        """
        rotation = evening_rotation(measured.covariance)
        if self.codec.rotate(rotation):
            even = measured.covariance.diagonal().mean().sqrt()
            self.set_statistics(rotation @ measured.mean, even.expand(self.latent_channels))
        else:
            self.set_statistics(measured.mean, measured.std)

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set what raw latents are normalised by, each (C,). Raises DataError for a channel that carries nothing."""
        assert mean.shape == std.shape == self.latent_mean.shape, f"statistics {mean.shape}, {std.shape}"
        useless = ~(torch.isfinite(mean) & torch.isfinite(std) & (std.float() > 0))
        if bool(useless.any()):
            channel = int(useless.nonzero()[0])
            raise DataError(
                f"latent channel {channel} has mean {float(mean[channel])} and deviation {float(std[channel])}"
                " over the training images: it carries nothing",
                "train the autoencoder longer, or with fewer latent channels",
            )
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)

    def _normalise(self, raw: Tensor) -> Tensor:
        return (raw.float() - _per_channel(self.latent_mean)) / _per_channel(self.latent_std)


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None, None]
