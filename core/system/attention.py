"""Attention of transformers and autoencoders, computed in the way that is fast on the machine."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from .memory import equal_chunks
from .precision import bf16_units

_MOST_WEIGHTS = 1 << 28  # 512 MB in bf16
_CACHED_WEIGHTS = 1 << 21  # what a CPU's cache holds during the softmax
# Looked up once: a constant to compiled code, without the decorator that would load the compiler here.
_HAS_AMX = bf16_units(torch.device("cpu")) == "AMX"


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Return softmax(scale · q kᵀ) v for q (B, N, T, H) and k, v (B, N, S, H); scale is 1 / √H by default.

    mask: bool, broadcast to (B, N, T, S): where a query may attend. Every query must have a key.

    In bf16 on CPUs three separate operations are two to eight times as fast as torch's fused attention: always in
    its backward pass, and in the forward pass alone on CPUs without AMX. They hold B N T² weights, so that torch's
    is used where those would be many. Samples are taken a few at a time, so that their weights fit in the cache: for
    1,024 tokens that takes two thirds of the time.
    """
    few = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] <= _MOST_WEIGHTS
    slow = q.device.type == "cpu" and q.dtype == torch.bfloat16 and (torch.is_grad_enabled() or not _HAS_AMX)
    if not (slow and few):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    at_once = max(1, _CACHED_WEIGHTS // (q.shape[1] * q.shape[2] * k.shape[2]))
    if torch.compiler.is_compiling() or at_once >= len(q):
        return _written_out(q, k, v, mask, scale=scale)
    whole = [q, k, v]
    if mask is not None:
        whole.append(mask[(None,) * (4 - mask.ndim)].expand(len(q), -1, -1, -1))
    parts = zip(*(equal_chunks(each, at_once) for each in whole), strict=True)
    return torch.cat([_written_out(*part, scale=scale) for part in parts])


def linear_attend(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-15) -> Tensor:
    """Return v (kᵀ q) with weights of sum 1, for features q, k >= 0 and v (B, N, H, T) of each position.

    (Katharopoulos et al. 2020): Σ_s v_s (k_s · q_t) / (Σ_s k_s · q_t + eps), by Σ_s v_s k_sᵀ first, so that the cost
    grows with T and not its square. A row of ones below v gives the denominator. In float32 or wider, whatever the
    autocast: sums over many positions lose all digits in bf16.
    """
    with torch.autocast(q.device.type, enabled=False):
        wide = torch.promote_types(q.dtype, torch.float32)
        q, k, v = q.to(wide), k.to(wide), F.pad(v.to(wide), (0, 0, 0, 1), value=1.0)
        h = (v @ k.transpose(-2, -1)) @ q
        return h[..., :-1, :] / (h[..., -1:, :] + eps)


@contextmanager
def fused() -> Iterator[None]:
    """Use torch's fused attention everywhere inside the block: on the CPU it then keeps what a GPU keeps."""
    global _MOST_WEIGHTS
    usual, _MOST_WEIGHTS = _MOST_WEIGHTS, 0
    try:
        yield
    finally:
        _MOST_WEIGHTS = usual


def _written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, scale: float) -> Tensor:
    weights = (q * scale) @ k.transpose(-2, -1)
    if mask is not None:
        weights = weights.masked_fill(~mask, -math.inf)
    return weights.softmax(dim=-1).to(v.dtype) @ v
