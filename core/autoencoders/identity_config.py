"""Pixels as settings: in colour, or grey. Imports no torch."""

from typing import Any, ClassVar, Literal

from ..settings.families import NetworkConfig
from ..settings.fields import option


class IdentityConfig(NetworkConfig):
    """Which channels a model of pixels sees."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {"identity": {}, "identity-grey": {"image_channels": 1}}

    default_preset = "identity"
    sizes = "identity, identity-grey (pixels)"

    image_channels: Literal[1, 3] = option(3, "3: the colours; 1: their mean.")
