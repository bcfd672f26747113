"""The dispersive loss (Wang & He 2025, "Diffuse and Disperse"): hidden states of a batch's samples are spread apart.

It needs neither a second network nor a second view: a regulariser of what the denoiser computes anyway.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .conditions import Cond

TEMPERATURE = 0.5


class Tapped(Protocol):
    """A network that also returns the hidden states after some of its blocks."""

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond, taps: tuple[int, ...] = ()) -> Any: ...


def tap_of(depth: int) -> int:
    """Return the block after which the states are spread: that at a quarter of the depth."""
    return max(depth // 4, 1) - 1


def dispersion(hidden: Tensor) -> Tensor:
    """Return the loss of hidden states (B, ...), float32 of no dimension, at most 0 and least where they are far apart.

    It is the logarithm of the mean of exp(-D / temperature) over all pairs of samples, each with itself too; D is
    the mean squared difference of two samples' states.
    """
    states = hidden.float().flatten(1)
    batch, width = states.shape
    apart = F.pdist(states).square() / (width * TEMPERATURE)
    pairs = torch.cat([-apart, -apart, apart.new_zeros(batch)])
    return pairs.logsumexp(0) - math.log(batch**2)


def dispersed(network: Tapped, tap: int, losses: list[Tensor]) -> Callable[[Tensor, Tensor, Cond], Tensor]:
    """Return the network with its plain output, which appends the dispersion of its states to `losses` at each call."""

    def call(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        output, hidden = network(x_t, t, cond, taps=(tap,))
        losses.append(dispersion(hidden[tap]))
        return output

    return call
