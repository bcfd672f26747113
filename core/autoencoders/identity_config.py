"""Pixels as settings: in colour, or grey. Imports no torch."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from ..settings.families import NetworkConfig
from ..settings.fields import option, read_number


class IdentityConfig(NetworkConfig):
    """Which channels a model of pixels sees."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {"identity": {}, "identity-grey": {"image_channels": 1}}

    default_preset = "identity"
    sizes = "identity, identity-grey (pixels)"

    in_channels: int = Field(default=3, ge=1)
    image_channels: Annotated[Literal[1, 3], BeforeValidator(read_number)] = option(3, "3: the colours; 1: their mean.")

    @property
    def latent_channels(self) -> int:
        """The channels that the model sees: those of the images, or one."""
        return self.in_channels if self.image_channels > 1 else 1
