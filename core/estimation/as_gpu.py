"""A GPU's dtypes and kernels for tensors that have no values: what is kept for the backward pass, and how wide.

On the `meta` device torch knows neither autocast nor fused attention. Both decide what memory a training takes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

# As `torch.autocast("cuda")` sorts what the networks here are made of: in the narrow format, and in float32.
_NARROW = {
    F.linear,
    F.conv2d,
    torch.conv2d,
    torch.matmul,
    Tensor.matmul,
    Tensor.__matmul__,
    torch.bmm,
    torch.addmm,
    torch.einsum,
    F.scaled_dot_product_attention,
}
_WIDE = {
    F.layer_norm,
    F.group_norm,
    F.softmax,
    torch.softmax,
    Tensor.softmax,
    F.cross_entropy,
    F.mse_loss,
    F.l1_loss,
    torch.exp,
    Tensor.exp,
    torch.log,
    Tensor.log,
    Tensor.pow,
    torch.pow,
    torch.norm,
    Tensor.norm,
}


class AsGPU(TorchFunctionMode):
    """Within the block, tensors on `meta` are computed as a GPU does under autocast to `dtype`; float32 is none."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self._narrowed: dict[Tensor, Tensor] = {}  # as autocast does, weights are narrowed once

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.dtype != torch.float32 and func in _NARROW:
            args, kwargs = tree_map_only(Tensor, self._narrow, (args, kwargs))
        elif self.dtype != torch.float32 and func in _WIDE:
            args, kwargs = tree_map_only(Tensor, _widen, (args, kwargs))
        if func is F.scaled_dot_product_attention and len(args) == 3 and not kwargs:
            return _fused_attention(*args)
        return func(*args, **kwargs)

    def __exit__(self, *error: Any) -> None:
        self._narrowed.clear()
        super().__exit__(*error)

    def backward(self, loss: Tensor) -> None:
        """Go back from a loss. `Tensor.backward` would leave the block, in which activations may be recomputed."""
        self._narrowed.clear()  # as autocast does at the end of the pass forward
        engine = torch.autograd.Variable._execution_engine
        engine.run_backward(
            (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
        )

    def _narrow(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        if not (tensor.is_leaf and tensor.requires_grad):
            return tensor.to(self.dtype)
        if tensor not in self._narrowed:
            self._narrowed[tensor] = tensor.to(self.dtype)
        return self._narrowed[tensor]


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention that keeps a number per query, not one per pair: flash in 16 bits, memory-efficient in float32."""
    if q.dtype == torch.float32:
        out: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, q.requires_grad)[0]
    else:
        out = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    return out
