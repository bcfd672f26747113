"""Networks of others as families without presets: they are read, and never built from settings. Imports no torch."""

from ..settings.families import NetworkConfig


class PublishedConfig(NetworkConfig, extra="allow"):
    """The arguments of a class of diffusers, which checks them itself."""


class TAEF2Config(NetworkConfig):
    """Nothing: there is one size."""
