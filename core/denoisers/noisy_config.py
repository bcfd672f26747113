"""The classifier of noisy latents as settings. Imports no torch."""

from pydantic import Field

from ..settings.families import NetworkConfig
from ..settings.fields import Section, option
from .dit_config import DiTConfig


class NoisyClassifierSize(Section):
    """The network's settings."""

    width: int = option(128, "Width of the tokens.", ge=8)
    depth: int = option(4, "Blocks.", ge=1)
    heads: int = option(4, "Attention heads.", ge=1)
    patch_size: int = option(2, "Latent pixels per token side.", ge=1)


class NoisyClassifierConfig(NetworkConfig, NoisyClassifierSize):
    """Shape of the network; the fields mean what those of `DiTConfig` do."""

    latent_channels: int = Field()
    latent_size: int = Field()
    num_classes: int = Field()

    def check(self) -> None:
        self.body.check()

    @property
    def body(self) -> DiTConfig:
        """The transformer with the same blocks. Raises ConfigError where the numbers do not fit together."""
        return DiTConfig(**self.model_dump())
