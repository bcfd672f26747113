"""How much memory tensors take while something runs, counted as they come and go: real, fake, or without values."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary


class LiveMemory(TorchDispatchMode):
    """Within the block, `live` is the bytes of all tensors made in it that are still there, `peak` the most there were.

    What kernels take for themselves and give back before they return is not seen. known: tensors from before, whose
    memory does not count, nor that of views of them.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen = WeakIdKeyDictionary()
        for tensor in known:
            self._seen[tensor.untyped_storage()] = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._see, out)
        return out

    def _see(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen[storage] = True
            size = storage.nbytes()
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._lose, size)
        return tensor

    def _lose(self, size: int) -> None:
        self.live -= size


def tensors_of(module: torch.nn.Module) -> list[Tensor]:
    """Return all that a network holds."""
    return [*module.parameters(), *module.buffers()]
