"""Our autoencoders as diffusers has them: the statistics of the latents folded into the network's own layers.

Its DiT pipeline does nothing with latents but divide them by one `scaling_factor` before they are decoded. Each family
that can be expressed there has a module of its own, which its line in the registry names.
"""

import importlib
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from ..autoencoders import registry
from ..autoencoders.codec import Autoencoder
from ..errors import ConfigError, DataError
from ..files import read_json

CONFIG = "config.json"


class Exporter(Protocol):
    """A module that exports one family."""

    def to_diffusers(self, autoencoder: Autoencoder, side: int) -> nn.Module: ...
    def notes(self, autoencoder: Autoencoder, side: int) -> list[str]: ...


def to_diffusers(autoencoder: Autoencoder, side: int) -> nn.Module:
    """Return a network of diffusers that decodes latents (B, C, side, side), divided by its scaling_factor, as ours.

    On the CPU, in evaluation mode. Raises ConfigError for an autoencoder that cannot be expressed there.
    """
    return _exporter(autoencoder).to_diffusers(autoencoder, side)


def notes(autoencoder: Autoencoder, side: int) -> list[str]:
    """Return what the exported network does otherwise than ours, in sentences."""
    return _exporter(autoencoder).notes(autoencoder, side)


def _exporter(autoencoder: Autoencoder) -> Exporter:
    kind = autoencoder.codec.kind
    name = registry.KINDS[kind].exporter
    if name is None:
        raise ConfigError(
            f"an autoencoder of kind {kind!r} has no class in diffusers", "export a run with another autoencoder"
        )
    exporter: Exporter = importlib.import_module(f".{name}", __package__)
    return exporter


def use_scaling_factor(autoencoder: Autoencoder, folder: Path) -> None:
    """Give an autoencoder from a diffusers folder the latent space of that folder's scaling factor.

    Which is what DiTs on its latents were trained with: mean 0, and 1 / scaling_factor for every deviation. Raises
    DataError where config.json has none.
    """
    path = folder / CONFIG
    factor = read_json(path).get("scaling_factor")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < float("inf"):
        raise DataError(f"{path}: scaling_factor is {factor!r}", "write there what the denoiser was trained with")
    autoencoder.set_statistics(
        torch.zeros(autoencoder.latent_channels), torch.full((autoencoder.latent_channels,), 1 / factor)
    )
