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


class LatentStatistics:
    """Mean and deviation of each latent channel over a stream of batches, float64.

    Batches are merged by their means and squared deviations (Chan, Golub & LeVeque 1979), which does not cancel
    where the mean is large against the deviation.
    """

    def __init__(self, num_channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(num_channels, dtype=torch.float64)
        self._squares = torch.zeros(num_channels, dtype=torch.float64)

    def add(self, latents: Tensor) -> None:
        """Take in a batch (B, C, h, w) of any float type, on any device."""
        rows = latents.detach().cpu().double().transpose(0, 1).flatten(1)
        assert rows.shape[0] == len(self.mean), f"latents of shape {tuple(latents.shape)}"
        count, mean = rows.shape[1], rows.mean(dim=1)
        if count == 0:
            return
        difference, total = mean - self.mean, self.count + count
        self._squares += (rows - mean[:, None]).square().sum(dim=1) + difference**2 * (self.count * count / total)
        self.mean = self.mean + difference * (count / total)
        self.count = total

    @property
    def std(self) -> Tensor:
        """The deviation (C,) of all values seen, float64."""
        assert self.count > 0, "no latents were added"
        return (self._squares / self.count).sqrt()


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None, None]
