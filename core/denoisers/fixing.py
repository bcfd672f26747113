"""A network without some of its scalars, at one value of each: their vectors become a part of the time's."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ..conditioning.crops import CROP
from .layers import ScalarEmbeddings, TimestepEmbedding
from .network import DenoiserNetwork
from .registry import outline


@torch.no_grad()
def fixed(network: DenoiserNetwork, values: Mapping[str, float]) -> DenoiserNetwork:
    """Return the network that computes, without these scalars, what this one does at their values, up to rounding.

    Scalars are vectors that are added to the time's before anything else happens to it, so constant ones are a part of
    its last bias.
    """
    scalars, time = network.get_submodule("scalars"), network.get_submodule("time")
    assert isinstance(scalars, ScalarEmbeddings) and isinstance(time, TimestepEmbedding), "takes scalars"
    vectors = [scalars[name](torch.full((1,), value)) for name, value in values.items()]
    return _without(network, values, {"time.down.bias": time.down.bias + torch.cat(vectors).sum(0)})


@torch.no_grad()
def of_whole_images(network: DenoiserNetwork) -> DenoiserNetwork:
    """Return the network without the condition of crops that its training had: exactly itself for whole images."""
    return _without(network, (CROP,), {}) if CROP in network.config.scalars else network


def _without(network: DenoiserNetwork, gone: Collection[str], changed: Mapping[str, Tensor]) -> DenoiserNetwork:
    """Return the network without some scalars. changed: tensors that are others then, by name."""
    prefixes = tuple(f"scalars.{name}." for name in gone)
    kept = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(prefixes)}
    result = outline(network.config.replace(scalars=tuple(n for n in network.config.scalars if n not in gone)))
    result.load_state_dict({**kept, **changed}, assign=True)
    return result.eval()
