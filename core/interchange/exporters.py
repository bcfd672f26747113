"""Our networks as diffusers has them: each family that can be expressed there has a module, which its line names."""

import importlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from ..autoencoders import registry
from ..autoencoders.codec import Autoencoder
from ..autoencoders.families import FAMILIES as AUTOENCODERS
from ..denoisers.families import FAMILIES as DENOISERS
from ..denoisers.network import DenoiserNetwork
from ..diffusion.conditions import Cond
from ..errors import ConfigError, DataError
from ..settings.families import kind_of
from .mapping import Given
from .stock import Stock


class DenoiserExporter(Protocol):
    """A module that exports one family.

    TITLE: the network's name, as papers have it. PIPELINES: those of diffusers that draw from it. CLASS_NAMES: of such
    a network.
    """

    TITLE: str
    PIPELINES: tuple[Stock, ...]
    CLASS_NAMES: tuple[str, ...]

    def to_diffusers(self, model: Any, ahead: int) -> nn.Module: ...

    def from_diffusers(self, given: Given) -> DenoiserNetwork: ...

    def pipeline(self, config: Any) -> Stock:
        """Return the pipeline that draws from a network of this config. Raises ConfigError where there is none."""

    def outputs(self, theirs: Any, config: Any, x: Tensor, t: Tensor, cond: Cond, ahead: int) -> Tensor:
        """Return what the exported network makes of x (B, C, H, W) at t (B,) for a condition, texts in vectors."""

    def summary(self, config: Any) -> str:
        """Say the shape of a network in a few words."""


class AutoencoderExporter(Protocol):
    """A module that exports one family, the statistics of the latents folded into the network's own layers.

    The DiT pipeline of diffusers only divides latents by one `scaling_factor` before they are decoded.
    """

    def to_diffusers(self, autoencoder: Autoencoder, side: int) -> nn.Module:
        """Return a network that decodes latents (B, C, side, side), divided by its scaling_factor, as ours.

        On the CPU, in evaluation mode. Raises ConfigError for an autoencoder that cannot be expressed there.
        """

    def notes(self, autoencoder: Autoencoder, side: int) -> list[str]:
        """Return what the exported network does otherwise than ours, in sentences."""


def import_autoencoder(folder: Path) -> Autoencoder:
    """Load a folder of diffusers as one of our families that has the same layers, with the latent space of its config.

    Raises DataError for a folder of a class, or of layers, that no family of ours has.
    """
    stock = registry.load(folder)
    for family in AUTOENCODERS.values():
        exporter: Any = _module(family.exporter, "") if family.exporter is not None else None
        if exporter is not None and getattr(exporter, "CLASS_NAME", "") == stock.codec.kind:
            state: dict[str, Tensor] = stock.codec.model.state_dict()  # type: ignore[attr-defined]
            return Autoencoder(exporter.from_diffusers(stock.codec.describe(), state, folder)).eval()
    raise DataError(
        f"{folder} holds an {stock.codec.kind}, of which no family here has the layers",
        f"use it as it is: ldm train-autoencoder --data FOLDER --autoencoder {shlex.quote(str(folder))}",
    )


def denoiser_exporters() -> Iterator[DenoiserExporter]:
    """Yield the modules that export a family of denoisers."""
    for family in DENOISERS.values():
        if family.exporter is not None:
            yield _module(family.exporter, "")


def denoiser_exporter(network: DenoiserNetwork) -> DenoiserExporter:
    """Return the module that exports a network. Raises ConfigError where its family has none."""
    family = kind_of(network.config, DENOISERS)
    exporter: DenoiserExporter = _module(DENOISERS[family].exporter, f"a denoiser of the {family} family")
    return exporter


def autoencoder_exporter(autoencoder: Autoencoder) -> AutoencoderExporter:
    """Return the module that exports an autoencoder. Raises ConfigError where its family has none."""
    kind = autoencoder.codec.kind
    exporter: AutoencoderExporter = _module(AUTOENCODERS[kind].exporter, f"an autoencoder of kind {kind!r}")
    return exporter


def _module(name: str | None, network: str) -> Any:
    if name is None:
        raise ConfigError(f"{network} has no class in diffusers", "export a run with another network")
    return importlib.import_module(f".{name}", __package__)
