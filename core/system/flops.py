"""What a step costs, counted without taking it: floating point operations, memory and kernels; and the GPUs by name.

FLOPs are those of matrix products and convolutions, two for a multiply-add. Memory is that of tensors, without
temporary buffers of kernels and what Python and torch take.
"""

import math
import statistics
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from .attention import fused
from .precision import Policy

# Dense products, 1e12 FLOP/s, by the makers' data sheets; fp32 is TF32 where there is that.
GPUS: dict[str, dict[str, float]] = {
    "b200": {"fp32": 1125, "bf16": 2250, "fp16": 2250},
    "h200": {"fp32": 494, "bf16": 989, "fp16": 989},
    "h100": {"fp32": 494, "bf16": 989, "fp16": 989},
    "a100": {"fp32": 156, "bf16": 312, "fp16": 312},
    "a100-40gb": {"fp32": 156, "bf16": 312, "fp16": 312},
    "l40s": {"fp32": 183, "bf16": 362, "fp16": 362},
    "l4": {"fp32": 60, "bf16": 121, "fp16": 121},
    "rtx4090": {"fp32": 82.6, "bf16": 165, "fp16": 165},
    "rtx3090": {"fp32": 35.6, "bf16": 71, "fp16": 71},
    "v100": {"fp32": 15.7, "fp16": 125},
    "t4": {"fp32": 8.1, "fp16": 65},
}
# Of the data sheet's rate, in training with cached latents: 0.24 by fast-DiT's XL/2 on an A100 (107 images/s, counted
# as here), and 0.55 is what this project aims at. Small networks, of fewer parameters than LARGE, reach 0.20 to 0.25.
UTILISATION, SMALL_UTILISATION, LARGE = 0.35, 0.22, 100_000_000
LAUNCH = 5e-6  # seconds that Python and the driver take to launch a kernel, at the least: torch's order of magnitude
COMPILED = 0.3  # share of the kernels that is left where the network is compiled
_OPTIMIZER_PASSES, _TENSORS_AT_ONCE = (
    4,
    64,
)  # over all weights: gradient norm, clipping, AdamW, EMA; 64 tensors a kernel
_NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "detach"}


@dataclass(frozen=True)
class Passes:
    """FLOPs of one image and kernels of a batch: `forward` of a pass forward, `training` of one forward and back.

    optimizer_kernels: of a step, for clipping, AdamW and the EMA. optimizer: FLOPs of a step, none but Muon's.
    """

    forward: int
    training: int
    forward_kernels: int
    training_kernels: int
    optimizer_kernels: int
    optimizer: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes of one step of a process at its peak.

    weights, gradients, moments (two of each weight that is trained, as AdamW's), average (the EMA): float32.
    activations: what a batch keeps for the backward pass. together: the peak; less than the sum, since activations are
    freed as gradients are made.
    """

    weights: int
    gradients: int
    moments: int
    average: int
    activations: int
    together: int


class Watch(TorchDispatchMode):
    """Within the block, count what tensors take and which kernels are launched.

    live, peak: bytes of the tensors made in the block, now and at their most; views of `known` tensors do not count.
    kernels: operations that computed something.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = self.kernels = 0
        self._seen = WeakIdKeyDictionary()
        for tensor in known:
            self._seen[tensor.untyped_storage()] = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        views = any(each.alias_info and not each.alias_info.is_write for each in func._schema.returns)
        kind, _, name = func._schema.name.partition("::")
        self.kernels += kind == "aten" and not views and name not in _NO_KERNEL
        out = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._see, out)
        return out

    def _see(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen[storage] = True
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, storage.nbytes())
        return tensor

    def _free(self, size: int) -> None:
        self.live -= size


def step_cost(
    outline: Callable[[str], nn.Module],
    inputs: Callable[[int, str], tuple[Any, ...]],
    batch: int,
    policy: Policy,
    checkpointing: bool = False,
) -> tuple[Passes, Memory]:
    """Count a training step of a network on a batch, on meta tensors: nothing is computed or allocated.

    outline: device → the network, without drawn weights. inputs: batch size and device → its arguments. Autocast and
    attention are those of the CPU where `policy` is of the CPU, else those of a GPU.
    """
    network = outline("meta").to("meta")
    with FlopCounterMode(display=False) as flops:
        output = network(*inputs(1, "meta"))
        forward = flops.get_total_flops()
        output.float().square().mean().backward()
    with FakeTensorMode(allow_non_fake_inputs=True), nullcontext() if policy.device.type == "cpu" else fused():
        network, data = outline("cpu"), inputs(batch, "cpu")
        network.checkpointing = checkpointing  # type: ignore[assignment]
        with Watch(tree_tensors(network, data)) as watch:
            with on_cpu(policy).autocast():
                loss = network(*data).float().square().mean()
            kept, launched = watch.live, watch.kernels
            loss.backward()
    training = flops.get_total_flops() + checkpointing * forward
    passes = Passes(forward, training, launched, watch.kernels, _optimizer_kernels(network))
    return passes, _memory(network, network, kept, watch.peak)


def task_cost(
    loss: Callable[[int], Tensor], trained: nn.Module, averaged: nn.Module, batch: int
) -> tuple[Passes, Memory]:
    """Count a step of any training, per image and in memory for a batch, by running it with one and two images.

    loss: number of images → their loss. For networks whose steps read values; small ones, since it is computed.
    """
    peaks, activations = [], []
    for count in (2, 1):
        trained.zero_grad(set_to_none=True)
        with FlopCounterMode(display=False) as flops, Watch(tree_tensors(trained)) as watch:
            value = loss(count)
            forward, kept, launched = flops.get_total_flops(), watch.live, watch.kernels
            value.backward()
            del value
        peaks.append(watch.peak)
        activations.append(kept)
    trained.zero_grad(set_to_none=True)
    passes = Passes(forward, flops.get_total_flops(), launched, watch.kernels, _optimizer_kernels(trained))
    at_batch = [one + (batch - 1) * (two - one) for two, one in (activations, peaks)]
    return passes, _memory(trained, averaged, *at_batch)


def forward_cost(run: Callable[[], Any]) -> tuple[int, int]:
    """Count the FLOPs and kernels of a pass without a backward one."""
    with FlopCounterMode(display=False) as flops, Watch() as watch, torch.no_grad():
        run()
    return flops.get_total_flops(), watch.kernels


def sharded(memory: Memory, processes: int, parts: Iterable[nn.Module], width: int) -> Memory:
    """Return the memory of a process of several that hold weights, gradients, moments and EMA in rows (FSDP).

    parts: gathered one at a time, the next while one is in use. width: bytes of a gathered number.
    """
    sizes = sorted((sum(p.numel() for p in part.parameters()) for part in parts), reverse=True)
    whole = width * sum(sizes[:2])
    held = {name: getattr(memory, name) // processes for name in ("weights", "gradients", "moments", "average")}
    kept = memory.together - memory.weights - memory.moments - memory.average - memory.gradients
    return replace(memory, **held, together=sum(held.values()) + max(memory.activations, kept) + whole)


def on_cpu(policy: Policy) -> Policy:
    """Return the policy under which a network is counted on the CPU: a dtype of the same width."""
    return Policy(torch.device("cpu"), torch.float32 if policy.dtype == torch.float32 else torch.bfloat16)


def tree_tensors(network: nn.Module, data: tuple[Any, ...] = ()) -> list[Tensor]:
    """Return all tensors of a network and of its inputs."""
    found = [*network.parameters(), *network.buffers()]
    tree_map_only(Tensor, found.append, data)
    return found


def seconds_of(work: Callable[[], Any], device: torch.device, budget: float) -> float:
    """Return the median seconds of a piece of work, called once before and then for about `budget` seconds."""

    def synchronise() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    work()
    taken: list[float] = []
    while not taken or sum(taken) < budget:
        synchronise()
        started = time.perf_counter()
        work()
        synchronise()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _optimizer_kernels(trained: nn.Module) -> int:
    return _OPTIMIZER_PASSES * math.ceil(len(list(trained.parameters())) / _TENSORS_AT_ONCE)


def _memory(trained: nn.Module, averaged: nn.Module, activations: int, peak: int) -> Memory:
    weights = 4 * sum(parameter.numel() for parameter in trained.parameters())
    stepped = 4 * sum(parameter.numel() for parameter in trained.parameters() if parameter.requires_grad)
    average = sum(tensor.numel() * tensor.element_size() for tensor in averaged.state_dict().values())
    return Memory(weights, stepped, 2 * stepped, average, activations, weights + 2 * stepped + average + peak)
