"""Pixels as latents, for models without a latent space: nothing is trained, and the statistics are the data's."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .codec import Posterior
from .identity_config import IdentityConfig


class IdentityCodec(nn.Module):
    """Images as latents; a `Codec`."""

    kind = "identity"
    downsampling = 1
    latent_sides = None

    def __init__(self, config: IdentityConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    @property
    def in_channels(self) -> int:
        return self.config.in_channels

    def encode(self, images: Tensor) -> Posterior:
        """Return the images, or the mean of their colours, (B, 1, H, W)."""
        same = self.latent_channels == self.in_channels
        return Posterior(images if same else images.mean(dim=1, keepdim=True))

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images; where they were in colour, with three equal ones."""
        return latents if self.latent_channels > 1 else latents.expand(-1, self.in_channels, -1, -1)

    def rotate(self, rotation: Tensor) -> bool:
        """Return False: there is no codebook."""
        return False

    def describe(self) -> Mapping[str, Any]:
        """Return the configuration, JSON."""
        return self.config.model_dump(mode="json")
