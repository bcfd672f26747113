"""How many kernels a GPU is asked for while something runs: what bounds networks too small to keep it at work."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..denoisers import registry
from ..denoisers.dit_config import DiTConfig
from .as_gpu import AsGPU

LAUNCH = 5e-6  # seconds that Python and the driver take to ask for one, at the least: torch's own order of magnitude
COMPILED = 0.3  # share of them that is left where the network is compiled: what lies between products is one kernel
_PASSES = 4  # over all weights in a step: norm of the gradients, clipping, AdamW, EMA
_TENSORS = 64  # that a kernel of these takes at once
_NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "detach"}


@dataclass(frozen=True)
class Kernels:
    """Launched in a pass forward, in one forward and back, and besides in each step of the optimizer."""

    forward: int
    training: int
    step: int

    def in_step(self, passes: int, compiled: bool = False) -> float:
        """Return how many a step of so many passes launches."""
        return self.training * passes * (COMPILED if compiled else 1) + self.step


class Launches(TorchDispatchMode):
    """Within the block, `count` is how many operations computed something: views and empty tensors ask for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        views = any(each.alias_info and not each.alias_info.is_write for each in func._schema.returns)
        self.count += not (views or func._schema.name.removeprefix("aten::") in _NO_KERNEL)
        return func(*args, **(kwargs or {}))


@cache
def denoiser_kernels(config: DiTConfig, dtype: torch.dtype) -> Kernels:
    """Count what a denoiser launches on a GPU under autocast to `dtype`, whatever the batch."""
    network = registry.outline(config, "meta").to("meta")
    data = (torch.empty(1, config.latent_channels, *config.size, device="meta"), torch.empty(1, device="meta"))
    cond = {"labels": torch.empty(1, dtype=torch.int64, device="meta")}
    with AsGPU(dtype) as gpu, Launches() as launched:
        loss = network(*data, cond).float().square().mean()
        forward = launched.count
        gpu.backward(loss)
    return Kernels(forward, launched.count, optimizer_kernels(network.parameters()))


def optimizer_kernels(weights: Iterable[Tensor]) -> int:
    """Return how many kernels clipping, AdamW and the EMA launch for these weights."""
    return _PASSES * math.ceil(len(list(weights)) / _TENSORS)


def task_kernels(loss: Callable[[int], Tensor], trained: nn.Module) -> Kernels:
    """Count what a step of any training launches, by taking it with one image."""
    trained.zero_grad(set_to_none=True)
    with Launches() as launched:
        value = loss(1)
        forward = launched.count
        value.backward()
    trained.zero_grad(set_to_none=True)
    return Kernels(forward, launched.count, optimizer_kernels(trained.parameters()))


def forward_kernels(run: Callable[[], Any]) -> int:
    """Count what a pass without a backward one launches."""
    with Launches() as launched, torch.no_grad():
        run()
    return launched.count
