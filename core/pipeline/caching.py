"""Features reused between near steps of sampling: the middle blocks of a transformer are computed at some steps only.

Between two of these, what they added to the hidden states is added again, as in Δ-DiT (Chen et al. 2024); the first and
the last block, and all that lies outside of the blocks, are computed at every step. When that is depends on the number
of the step alone: an image is the same whatever is drawn with it.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..denoisers.network import DenoiserNetwork
from ..diffusion.conditions import Cond

OUTER = 1  # blocks at either end that are always computed

States = tuple[Tensor, ...]


@dataclass
class _Memory:
    """What the middle blocks added at the last computed step, how many calls ago that was, and what it was of."""

    added: States = ()
    age: int = 0
    shape: torch.Size = field(default_factory=torch.Size)


class _Watched(nn.Module):
    """A block whose first inputs, or outputs, are kept: the hidden states that it takes and gives."""

    def __init__(self, block: nn.Module, inputs: bool) -> None:
        super().__init__()
        self.block, self.inputs = block, inputs
        self.seen: tuple[Any, ...] = ()

    def forward(self, *given: Any) -> Any:
        result = self.block(*given)
        self.seen = given if self.inputs else _several(result)
        return result


class _Adding(nn.Module):
    """Adds what is known to the hidden states, in the place of a block; nothing: returns them."""

    def __init__(self, added: States, count: int) -> None:
        super().__init__()
        self.added, self.count = added, count

    def forward(self, *given: Any) -> Any:
        states = given[: self.count]
        if self.added:
            states = tuple(state + more for state, more in zip(states, self.added, strict=True))
        return states if self.count > 1 else states[0]


class CachedBlocks:
    """A network that computes its middle blocks at every `interval`-th step only; to be called along one path.

    A step may call it several times: the calls at one time are remembered apart, by their order. Where times rise, as
    in RePaint's jumps, or another number of samples comes, all is computed.
    """

    def __init__(self, network: DenoiserNetwork, interval: int) -> None:
        assert interval > 1 and len(network.blocks) > 2 * OUTER, "nothing to reuse"
        self.network, self.interval = network, interval
        self._memories: list[_Memory] = []
        self._time, self._call = float("inf"), 0

    def at(self, time: float) -> None:
        """Say at which time the next call is: known before it lies on a device."""
        if time > self._time:
            self._memories.clear()
        self._call = self._call + 1 if time == self._time else 0
        self._time = time

    def __call__(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        while self._call >= len(self._memories):
            self._memories.append(_Memory())
        memory = self._memories[self._call]
        own = self.network.blocks
        reuse = memory.age < self.interval and memory.shape == x.shape
        if reuse:
            count = len(memory.added)
            middle: list[nn.Module] = [_Adding((), count) for _ in own[OUTER:-OUTER]]
            middle[0] = _Adding(memory.added, count)
            output = self._with([*own[:OUTER], *middle, *own[-OUTER:]], x, t, cond)
        else:
            inner = [*own[OUTER:-OUTER]]
            first = inner[0] = _Watched(inner[0], inputs=True)
            last = inner[-1] = _Watched(inner[-1], inputs=False)
            output = self._with([*own[:OUTER], *inner, *own[-OUTER:]], x, t, cond)
            pairs = zip(last.seen, first.seen, strict=False)  # Behind the hidden states come modulations.
            memory.added = tuple(after - before for after, before in pairs)
            memory.age, memory.shape = 0, x.shape
        memory.age += 1
        return output

    def _with(self, blocks: list[nn.Module], x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Call the network with other blocks in the place of its own."""
        own = self.network.blocks
        self.network.blocks = nn.ModuleList(blocks)
        try:
            output: Tensor = self.network(x, t, cond)
            return output
        finally:
            self.network.blocks = own


def _several(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)
