"""Batches of tensors, in nested tuples, lists and dicts: split into passes, pinned, and moved to the device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def map_tensors(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to every tensor of a batch; other values stay."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, dict):
        return {name: map_tensors(value, function) for name, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(map_tensors(value, function) for value in batch)
    return batch


def split_batch(batch: Any, parts: int) -> list[Any]:
    """Split every tensor of a batch along axis 0 into equal parts; other values go to each part."""

    def part(index: int) -> Any:
        return map_tensors(batch, lambda tensor: tensor.chunk(parts)[index])

    return [part(index) for index in range(parts)]


def pin_memory(batch: Any) -> Any:
    """Return a batch with its CPU tensors in pinned memory, from which copies to a GPU run beside its work."""
    return map_tensors(batch, lambda tensor: tensor.pin_memory() if tensor.device.type == "cpu" else tensor)


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a batch on a device. A CUDA GPU copies it in its queue; the program does not wait.

    Other devices get it at once: an Apple GPU may read unpinned memory after it was freed.
    """
    if device.type == "cuda":
        return map_tensors(pin_memory(batch), lambda tensor: tensor.to(device, non_blocking=True))
    return map_tensors(batch, lambda tensor: tensor.to(device))
