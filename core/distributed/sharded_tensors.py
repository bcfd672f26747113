"""Tensors that are sharded by rows over the processes, gathered by the main process one tensor at a time."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from . import processes, tensor_file


def local_rows(num_rows: int, world: processes.World) -> slice:
    """Return which rows of a tensor a process holds: ceil(rows / processes), the last fewer, as `fully_shard` does."""
    per_process = -(-num_rows // world.size)
    return slice(min(world.rank * per_process, num_rows), min((world.rank + 1) * per_process, num_rows))


class ShardedTensors:
    """Named tensors for one file, of which each process may hold only rows.

    local: what this process holds. full_shapes: the shapes of those that are sharded. full: all on the meta device. The
    main process reads every tensor once, in the file's order, while the others `send_rest`: see `gathered_by_main`.
    """

    def __init__(self, local: Mapping[str, Tensor], full_shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.local, self._full_shapes = local, full_shapes
        self.full = {
            name: torch.empty(full_shapes.get(name, tensor.shape), dtype=tensor.dtype, device="meta")
            for name, tensor in local.items()
        }
        self._unread = tensor_file.in_order(self.full)

    def read(self, name: str) -> Tensor:
        """Return the full tensor in the main process, on the CPU, and the local one in the others."""
        assert self._unread[0] == name, f"{name} is read before {self._unread[0]}"
        self._unread.pop(0)
        local = self.local[name].detach()
        if name not in self._full_shapes:
            return local.cpu()
        num_rows, *rest = self._full_shapes[name]
        padded = torch.zeros(-(-num_rows // processes.world().size), *rest, dtype=local.dtype, device=local.device)
        padded[: len(local)] = local
        full = processes.all_gather_rows(padded)[:num_rows]
        return full.cpu() if processes.world().is_main else local

    def send_rest(self) -> None:
        """Send this process's rows of the tensors that were not read."""
        if not self._full_shapes:
            self._unread.clear()
        while self._unread:
            self.read(self._unread[0])

    def write(self, path: Path) -> None:
        """Write the tensors to a safetensors file, as the main process."""
        tensor_file.write(path, self.full, self.read)


@contextmanager
def gathered_by_main(groups: Iterable[ShardedTensors]) -> Iterator[None]:
    """Let the main process alone read the groups in the block; the others do nothing there but send their rows.

    Where the main process fails, it still receives what the others send: they see errors at a barrier.
    """
    try:
        yield
    finally:
        for group in groups:
            group.send_rest()


def sharded_tensors(tensors: Mapping[str, Tensor]) -> ShardedTensors:
    """Return a state_dict's tensors ready to be written, those that are DTensors as sharded."""
    full_shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if _is_dtensor(tensor)}
    local = {name: tensor.to_local() if _is_dtensor(tensor) else tensor for name, tensor in tensors.items()}  # type: ignore[attr-defined]
    return ShardedTensors(local, full_shapes)


def _is_dtensor(tensor: Tensor) -> bool:
    return hasattr(tensor, "device_mesh")  # isinstance would load torch.distributed.tensor, which takes a second
