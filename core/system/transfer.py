"""Tensors on their way to a GPU: from pinned memory a copy runs beside the work, and nobody waits for it."""

from typing import Any

import torch


def pin_memory(data: Any) -> Any:
    """Return a batch with its CPU tensors in pinned memory; tuples and lists are gone through, the rest stays."""
    if isinstance(data, torch.Tensor):
        return data.pin_memory() if data.device.type == "cpu" else data
    if isinstance(data, (tuple, list)):
        return type(data)(pin_memory(each) for each in data)
    return data


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device. A CUDA GPU gets it when its queue comes to it: a plain copy would wait for that.

    Other devices get it at once: an Apple GPU may read what is not pinned after its memory was given back.
    """
    if device.type != "cuda":
        return tensor.to(device)
    there: torch.Tensor = pin_memory(tensor).to(device, non_blocking=True)
    return there
