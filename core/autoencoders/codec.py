"""A codec between images and latents, what trains one, and the autoencoder that owns its latent space.

A codec maps images to raw latents and back; each family is a file of its own, known to `registry` alone. `Autoencoder`
wraps one and adds the measured mean and deviation of each latent channel, so that outside of it latents have zero mean
and unit deviation, and no other code multiplies by a scale.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from .. import seeds
from ..errors import ConfigError, DataError
from .statistics import LatentStatistics, evening_rotation


class Posterior(NamedTuple):
    """The latents of images: mean (B, C, h, w), and their deviation, None where they are not random."""

    mean: Tensor
    std: Tensor | None = None


class Codec(Protocol):
    """A network between images (B, I, H, W) in [-1, 1] and raw latents (B, C, H / downsampling, W / downsampling).

    kind: the name under which `registry` saves and loads it. in_channels: I, of images. latent_sides: the sides of
    latents that it takes, None for any.
    """

    @property
    def kind(self) -> str: ...
    @property
    def in_channels(self) -> int: ...
    @property
    def latent_channels(self) -> int: ...
    @property
    def downsampling(self) -> int: ...
    @property
    def latent_sides(self) -> Sequence[int] | None: ...

    def encode(self, images: Tensor) -> Posterior:
        """Return the posterior over raw latents; no draw is made."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return images, not clamped, from raw latents."""

    def rotate(self, rotation: Tensor) -> bool:
        """Rotate the raw latent space: z becomes R z, codes with it, and what is decoded stays the same.

        rotation: orthogonal, float64 (C, C). Returns False, and does nothing, where there is no codebook.
        """

    def describe(self) -> Mapping[str, Any]:
        """Return the configuration from which `registry` rebuilds it, JSON."""

    def state_dict(self) -> dict[str, Tensor]: ...


@runtime_checkable
class TokenCodec(Codec, Protocol):
    """A codec whose latents can be written as maps of whole numbers, coarse to fine: one, or a pyramid."""

    @property
    def num_tokens(self) -> int:
        """How many values a token has."""

    def tokens(self, images: Tensor) -> list[Tensor]:
        """Return the maps, each int64 (B, h_k, w_k)."""

    def from_tokens(self, tokens: Sequence[Tensor]) -> Tensor:
        """Return the raw latents (B, C, h, w) of the first maps, which `decode` takes; of all maps, the whole."""


@dataclass(frozen=True)
class Draws:
    """The random numbers of one training step: functions of the seed, a purpose, and the place in the stream.

    images_seen: before the step. positions: of the batch's images in the stream, int64 (B,).
    """

    seed: int
    images_seen: int
    positions: np.ndarray

    def generator(self, purpose: str) -> torch.Generator:
        """Return a generator, on the CPU, of draws that concern the batch as a whole."""
        return seeds.torch_generator(self.seed, purpose, self.images_seen)

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Draw standard normal noise for each image, float32 (B, *shape), on the CPU."""
        return seeds.normal(self.seed, purpose, self.positions, shape)

    def uniform(self, purpose: str) -> Tensor:
        """Draw a number in [0, 1) for each image, float64 (B,), on the CPU."""
        return seeds.uniform(self.seed, purpose, self.positions)

    def split(self, parts: int) -> list["Draws"]:
        """Return the draws of equal parts of the batch."""
        return [Draws(self.seed, self.images_seen, some) for some in np.split(self.positions, parts)]


@dataclass(frozen=True)
class Reconstruction:
    """A trainable codec's output for a batch.

    images: (B, I, H, W), not clamped. loss: the codec's own term, scalar: codebook, commitment, divergence. numbers: to
    log, scalars. observed: without gradient, what `after_step` and `summarise` look at.
    """

    images: Tensor
    loss: Tensor
    numbers: dict[str, Tensor]
    observed: Any = None


Between = Callable[[Tensor], Tensor]  # latents (B, C, h, w) to latents


def untouched(latents: Tensor) -> Tensor:
    """Return latents as they are."""
    return latents


@runtime_checkable
class TrainableCodec(Codec, Protocol):
    """A codec that `core.training.tasks.autoencoding` trains; pixels, perception and a discriminator are the task's.

    BatchNorm may be used: the EMA copies its statistics, and those of an untrained part do not change.
    """

    @property
    def synchronous(self) -> bool:
        """Whether `after_step` changes the codec: a step then has to be finished before the next one."""

    @property
    def last_layer(self) -> Tensor:
        """The decoder's last weight, by whose gradients the adversarial loss is scaled."""

    @property
    def parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """What a phase may train: `all`, `middle` (around the latents), `decoder`, and `head` (the output)."""

    @property
    def compile_units(self) -> Sequence[nn.Module]:
        """The modules that are compiled, each by itself."""

    def __call__(self, images: Tensor, draws: Draws | None = None, between: Between = untouched) -> Reconstruction:
        """Encode and decode images (B, I, H, W) in [-1, 1]; draws: of the training step, None in validation.

        between: what is done to raw latents before they are decoded, and quantised where there is a codebook. It may
        change their size, and that of the images that come out.
        """

    def initialise(self, images: Tensor, draws: Draws) -> None:
        """Initialise from training images, before the first step."""

    def after_step(self, observed: Sequence[Any], draws: Draws) -> None:
        """Update the codec after an accepted step. observed: of each of its passes, in this process."""

    def summarise(self, observed: Sequence[Any]) -> dict[str, float]:
        """Return numbers of a whole validation, from `observed` of each of its batches."""


def train_only(codec: TrainableCodec, part: str) -> list[nn.Module]:
    """Let gradients reach only one of the codec's `parts`.

    Returns the other modules that keep statistics, which have to be in evaluation mode while the part is trained.
    """
    assert isinstance(codec, nn.Module)
    inside = {id(module) for each in codec.parts[part] for module in each.modules()}
    codec.requires_grad_(False)
    for each in codec.parts[part]:
        each.requires_grad_(True)
    return [module for module in codec.modules() if id(module) not in inside and not list(module.children())]


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
    def in_channels(self) -> int:
        return self.codec.in_channels

    @property
    def latent_channels(self) -> int:
        return self.codec.latent_channels

    @property
    def downsampling(self) -> int:
        return self.codec.downsampling

    @property
    def keeps_pixels(self) -> bool:
        """Whether latents are the pixels themselves, so that nothing is trained and encoding costs almost nothing."""
        return next(self.parameters(), None) is None

    @property
    def decodes_only(self) -> bool:
        """Whether it is of an export without an encoder, whose weights are NaN there."""
        return any(bool(parameter.isnan().any()) for parameter in self.parameters())

    def require_channels(self, channels: int) -> None:
        """Raise ConfigError for images of other channels than it takes."""
        if channels != self.in_channels:
            raise ConfigError(
                f"`data.channels={channels}`: the autoencoder is of images with {self.in_channels}",
                f"use {self.in_channels}, or another autoencoder",
            )

    def latent_shape(self, image_size: int | tuple[int, int]) -> tuple[int, int, int]:
        """Return (C, h, w) of the latents of images of a size: the side of squares, or height and width.

        Raises ConfigError for a size that it does not take.
        """
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        for name, side in zip(("image_size", "image_width"), size, strict=True):
            if side % self.downsampling:
                below = side // self.downsampling * self.downsampling
                raise ConfigError(
                    f"`data.{name}={side}` is not a multiple of {self.downsampling}, the autoencoder's downsampling",
                    f"use {below or self.downsampling} or {below + self.downsampling}",
                )
            sides = self.codec.latent_sides
            if sides is not None and (side // self.downsampling not in sides or size[0] != size[1]):
                taken = " or ".join(str(each * self.downsampling) for each in sides)
                raise ConfigError(f"`data.{name}={side}` does not fit the autoencoder", f"use squares of {taken}")
        return self.latent_channels, size[0] // self.downsampling, size[1] // self.downsampling

    def encode(self, images: Tensor) -> Tensor:
        """Return normalised latents (B, C, h, w) of images (B, I, H, W) in [-1, 1], float32; no draw is made."""
        return self._normalise(self.codec.encode(images).mean)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (B, I, H, W), float32 clamped to [-1, 1], from normalised latents (B, C, h, w)."""
        raw = latents.float() * _per_channel(self.latent_std) + _per_channel(self.latent_mean)
        return self.codec.decode(raw).float().clamp(-1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return reconstructions, float32 clamped to [-1, 1], of images (B, I, H, W); no draw is made."""
        return self.decode(self.encode(images))

    def posterior(self, images: Tensor) -> Posterior:
        """Return mean and deviation of the normalised latents, float32; the deviation is None where there is none."""
        mean, std = self.codec.encode(images)
        return Posterior(self._normalise(mean), None if std is None else std.float() / _per_channel(self.latent_std))

    def normalise_by(self, measured: LatentStatistics) -> None:
        """Normalise raw latents by what was measured of them; see `set_statistics` for errors.

        A latent space with a codebook is first rotated so that all channels have the same deviation. Divided by one
        number, normalised latents have the same nearest codes as raw ones: a denoiser's errors count evenly, and
        libraries that look up codes of normalised latents find the right ones.
        """
        rotation = evening_rotation(measured.covariance)
        if self.codec.rotate(rotation):
            even = measured.covariance.diagonal().mean().sqrt()
            self.set_statistics(rotation @ measured.mean, even.expand(self.latent_channels))
        else:
            self.set_statistics(measured.mean, measured.std)

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set what raw latents are normalised by, each (C,). Raises DataError for a channel without variance."""
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
