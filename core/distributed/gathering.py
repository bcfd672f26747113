"""Tensors that lie in rows over the processes, made whole by the first one, a tensor at a time."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from . import processes, tensor_file
from .tensor_file import Spec


def own_rows(num_rows: int, world: processes.World) -> slice:
    """Return which rows of a tensor a process holds: as many as the others, but that the last may lack some."""
    most = -(-num_rows // world.size)
    return slice(min(world.rank * most, num_rows), min((world.rank + 1) * most, num_rows))


class Scattered:
    """Named tensors to be written to one file, each of which may lie in rows over the processes.

    own: what this process holds of each. whole: the shapes of those that are cut. All processes have to read all
    tensors in the same order, by `write` or `attend`; only the first gets them.
    """

    def __init__(self, own: Mapping[str, Tensor], whole: Mapping[str, tuple[int, ...]]) -> None:
        self._own, self._whole = own, whole
        self.specs = {name: Spec(tensor.dtype, whole.get(name, tuple(tensor.shape))) for name, tensor in own.items()}
        self._left = tensor_file.in_order(self.specs)

    def read(self, name: str) -> Tensor:
        """Return a whole tensor to the first process, on the CPU, and what it holds of it to any other."""
        assert self._left[0] == name, f"{name} is read before {self._left[0]}"
        self._left.pop(0)
        own = self._own[name].detach()
        if name not in self._whole:
            return own.cpu()
        shape = self._whole[name]
        most = -(-shape[0] // processes.world().size)
        padded = torch.zeros(most, *shape[1:], dtype=own.dtype, device=own.device)
        padded[: len(own)] = own
        together = processes.gather_to_leader(padded)
        return own if together is None else together[: shape[0]].cpu()

    def attend(self) -> None:
        """Take part in reading what has not been read."""
        while self._left:
            self.read(self._left[0])

    def write(self, path: Path) -> None:
        """Write the tensors to a safetensors file, as the first process."""
        tensor_file.write(path, self.specs, self.read)


def scattered(tensors: Mapping[str, Tensor]) -> Scattered:
    """Return tensors of a network as they can be written, whether or not it lies in rows over the processes."""
    whole = {name: tuple(tensor.shape) for name, tensor in tensors.items() if is_cut(tensor)}
    own = {name: tensor.to_local() if is_cut(tensor) else tensor for name, tensor in tensors.items()}  # type: ignore[attr-defined]
    return Scattered(own, whole)


def is_cut(tensor: Tensor) -> bool:
    """Whether a tensor is one of torch's that lie over several processes."""
    return hasattr(tensor, "device_mesh")
