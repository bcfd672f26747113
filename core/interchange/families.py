"""The families of denoisers that have a form in diffusers: one line each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..denoisers.families import FAMILIES
from ..denoisers.network import DenoiserNetwork
from ..errors import ConfigError
from ..settings.families import kind_of
from . import transformer


@dataclass(frozen=True)
class DiffusersForm:
    """How a family goes to diffusers, and back for comparison.

    title: the network's name. to_diffusers: network and `ahead` → diffusers' module. outputs: its outputs, of that
    module, the network's config, x, t, labels and `ahead`. summary: the shape of a config, in words.
    """

    title: str
    to_diffusers: Callable[[Any, int], nn.Module]
    outputs: Callable[[Any, Any, Tensor, Tensor, Tensor, int], Tensor]
    summary: Callable[[Any], str]


DENOISERS = {"dit": DiffusersForm("DiT", transformer.to_diffusers, transformer.outputs, transformer.summary)}


def form_of(network: DenoiserNetwork) -> DiffusersForm:
    """Return the form of a network's family. Raises ConfigError where it has none."""
    family = kind_of(network.config, FAMILIES)
    if family not in DENOISERS:
        known = " or ".join(form.title for form in DENOISERS.values())
        raise ConfigError(f"diffusers' pipelines have no {type(network).__name__}", f"export a {known}")
    return DENOISERS[family]
