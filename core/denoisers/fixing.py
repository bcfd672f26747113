"""A network without some of its scalars, at one value of each: their vectors become a part of the time's."""

from collections.abc import Mapping

import torch

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
    bias = time.down.bias + torch.cat(vectors).sum(0)
    gone = tuple(f"scalars.{name}." for name in values)
    kept = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(gone)}
    result = outline(network.config.replace(scalars=tuple(n for n in network.config.scalars if n not in values)))
    result.load_state_dict({**kept, "time.down.bias": bias}, assign=True)
    return result.eval()
