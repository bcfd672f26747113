"""What networks cost, counted by running them: on tensors without values where they allow it, else on a small batch.

Operations are those of matrix products and convolutions, two for a multiplication and an addition. Memory is that of
tensors; what kernels take for themselves for a moment is not in it, nor what Python and torch take.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ..denoisers import registry
from ..denoisers.dit import DiT
from ..denoisers.dit_config import DiTConfig
from ..diffusion.conditions import Cond
from ..system.precision import Policy
from .as_gpu import AsGPU
from .live import LiveMemory, tensors_of


@dataclass(frozen=True)
class Operations:
    """Of one image: of a pass forward, and of one forward and back."""

    forward: int
    training: int


@dataclass(frozen=True)
class Memory:
    """Bytes of one step of a process, at its most.

    weights, gradients, moments (the optimizer's), average: float32. activations: what a batch keeps for the backward
    pass, with narrow copies of the weights where there are any. together: the most there is at a time, which is less
    than the sum, for gradients come as activations go.
    """

    weights: int
    gradients: int
    moments: int
    average: int
    activations: int
    together: int


@cache
def denoiser_operations(config: DiTConfig) -> Operations:
    """Count the operations of a denoiser per image."""
    network, data = _outlined(config, 1, "meta")
    with FlopCounterMode(display=False) as counted:
        output = network(*data)
        forward = counted.get_total_flops()
        output.float().square().mean().backward()
    return Operations(forward, counted.get_total_flops())


def denoiser_memory(config: DiTConfig, batch: int, policy: Policy, checkpointing: bool) -> Memory:
    """Count the memory of training a denoiser on batches of so many images, as the CPU or a GPU would need it."""
    if policy.device.type == "cpu":
        with FakeTensorMode(allow_non_fake_inputs=True):
            network, data = _outlined(config, batch, "cpu")
            network.checkpointing = checkpointing
            return _of_training(network, data, policy.autocast, Tensor.backward)
    network, data = _outlined(config, batch, "meta")
    network.checkpointing = checkpointing
    with AsGPU(policy.dtype) as gpu:
        return _of_training(network, data, nullcontext, gpu.backward)


def _outlined(config: DiTConfig, batch: int, device: str) -> tuple[DiT, tuple[Tensor, Tensor, Cond]]:
    network = registry.outline(config, device)
    if device == "meta":  # Tables of positions are not.
        network.to(device)
    shape = (batch, config.latent_channels, *config.size)
    cond = {"labels": torch.empty(batch, dtype=torch.int64, device=device)}
    return network, (torch.empty(shape, device=device), torch.empty(batch, device=device), cond)


def _of_training(
    network: nn.Module,
    data: tuple[Tensor, Tensor, Cond],
    autocast: Callable[[], Any],
    backward: Callable[[Tensor], None],
) -> Memory:
    with LiveMemory([*tensors_of(network), *data[:2], *data[2].values()]) as memory:
        with autocast():
            loss = network(*data).float().square().mean()
        activations = memory.live
        backward(loss)
    return _memory(network, network, activations, memory.peak)


def task_cost(
    loss: Callable[[int], Tensor], trained: nn.Module, averaged: nn.Module, known: Iterable[Tensor], batch: int
) -> tuple[Operations, Memory]:
    """Count what a step of any training costs per image and, in memory, at a batch, by taking it with one and with two.

    loss: number of images → the loss of so many. known: tensors that are there anyway, besides those of `trained`.
    """
    held = [*tensors_of(trained), *known]
    peaks, activations = [], []
    for count in (1, 2):
        trained.zero_grad(set_to_none=True)
        with FlopCounterMode(display=False) as counted, LiveMemory(held) as memory:
            value = loss(count)
            forward, kept = counted.get_total_flops(), memory.live
            value.backward()
            del value
        peaks.append(memory.peak)
        activations.append(kept)
    trained.zero_grad(set_to_none=True)
    operations = Operations(forward // 2, counted.get_total_flops() // 2)
    at_batch = [one + (batch - 1) * (two - one) for one, two in (activations, peaks)]
    return operations, _memory(trained, averaged, *at_batch)


def count_forward(run: Callable[[], Any]) -> int:
    """Count the operations of a pass without a backward one."""
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        run()
    return counted.get_total_flops()


def sharded(memory: Memory, processes: int, parts: Iterable[nn.Module], width: int) -> Memory:
    """Return what a process of several holds when weights and all that goes with them lie in rows over them.

    parts: gathered one at a time, the next while one is in use. width: bytes of a gathered number.
    """
    sizes = sorted((sum(p.numel() for p in part.parameters()) for part in parts), reverse=True)
    whole = width * sum(sizes[:2])
    held = {name: getattr(memory, name) // processes for name in ("weights", "gradients", "moments", "average")}
    kept = memory.together - memory.weights - memory.moments - memory.average - memory.gradients
    return replace(memory, **held, together=sum(held.values()) + max(memory.activations, kept) + whole)


def _memory(trained: nn.Module, averaged: nn.Module, activations: int, peak: int) -> Memory:
    weights = 4 * sum(parameter.numel() for parameter in trained.parameters())
    average = sum(tensor.numel() * tensor.element_size() for tensor in averaged.state_dict().values())
    return Memory(weights, weights, 2 * weights, average, activations, weights + 2 * weights + average + peak)
