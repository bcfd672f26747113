"""Our denoisers as diffusers has them: each family that can be expressed there has a module, which its line names."""

import importlib
from typing import Any, Protocol

from torch import Tensor, nn

from ..denoisers.families import FAMILIES
from ..denoisers.network import DenoiserNetwork
from ..errors import ConfigError
from ..settings.families import kind_of


class Exporter(Protocol):
    """A module that exports one family. TITLE: the network's name, as papers have it."""

    TITLE: str

    def to_diffusers(self, model: Any, ahead: int) -> nn.Module: ...

    def outputs(self, theirs: Any, config: Any, x: Tensor, t: Tensor, labels: Tensor, ahead: int) -> Tensor:
        """Return what the exported network makes of x (B, C, H, W) at t (B,) for labels (B,)."""

    def summary(self, config: Any) -> str:
        """Say the shape of a network in a few words."""


def exporter_of(network: DenoiserNetwork) -> Exporter:
    """Return the module that exports a network. Raises ConfigError where its family has none."""
    family = kind_of(network.config, FAMILIES)
    name = FAMILIES[family].exporter
    if name is None:
        raise ConfigError(f"a denoiser of the {family} family has no class in diffusers", "export another run's")
    exporter: Exporter = importlib.import_module(f".{name}", __package__)
    return exporter
