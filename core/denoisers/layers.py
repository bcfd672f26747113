"""The layers of diffusion transformers.

Shape suffixes where the rank changes: B batch, T tokens, D width, N heads, H head width, F frequencies.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..conditioning.crops import CROP, CropEmbedding
from ..diffusion.conditions import Cond
from ..system.attention import attend
from ..system.precision import bf16_units

EPS = 1e-6
_ONE_KERNEL = bf16_units(torch.device("cpu")) is not None and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return x (1 + scale) + shift for x (B, T, D) and shift, scale (B, 1, D). Perez et al. 2018 (FiLM)."""
    return torch.addcmul(shift, x, 1 + scale)


def normalise(x: Tensor, rms: bool) -> Tensor:
    """Return x with unit scale over its last axis, without learned weights: LayerNorm, or RMSNorm."""
    if rms:
        return F.rms_norm(x, x.shape[-1:], eps=EPS)
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


def gelu(x: Tensor) -> Tensor:
    """Return x Φ(x) in its tanh form, x (1 + tanh u) / 2 with u = √(2/π) (x + 0.044715 x³) (Hendrycks & Gimpel 2016).

    Compiled, it is written as x sigmoid(2u), the same function, whose code is twice as fast.
    """
    if torch.compiler.is_compiling():
        return x * torch.sigmoid(x * (1 + 0.044715 * x * x) * math.sqrt(8 / math.pi))
    return F.gelu(x, approximate="tanh")


def to_patches(x: Tensor, size: int) -> Tensor:
    """(B, C, H, W) → (B, T, C p p), row by row, for patches of p = size pixels a side."""
    rows, columns = x.shape[2] // size, x.shape[3] // size
    # (B, C, rows, p, columns, p) → (B, rows, columns, C, p, p)
    cut = x.reshape(len(x), -1, rows, size, columns, size).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(len(x), rows * columns, -1)


def from_patches(tokens: Tensor, size: int, grid: tuple[int, int]) -> Tensor:
    """(B, T, p p C) → (B, C, H, W)"""
    rows, columns = grid
    # (B, rows, columns, p, p, C) → (B, C, rows, p, columns, p)
    cut = tokens.reshape(len(tokens), rows, columns, size, size, -1).permute(0, 5, 1, 3, 2, 4)
    return cut.reshape(len(tokens), -1, rows * size, columns * size)


def sincos_positions(
    width: int, grid: tuple[int, int], first: tuple[int, int] = (0, 0), spacing: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """Return the fixed position code of every token, float32 (T, D), row by row over a (rows, columns) grid.

    Rows and columns are `spacing` apart, and count from the first ones.

    Half of the width encodes the column and half the row, each as [sin, cos](position / 10000^(k / (D/4))): the
    two-dimensional form of Vaswani et al. 2017 that He et al. 2022 (MAE) and Peebles & Xie 2023 (DiT) use.
    """
    frequencies = 10000.0 ** -(np.arange(width // 4) / (width / 4))
    rows, columns = np.meshgrid(
        *(apart * (start + np.arange(num)) for apart, start, num in zip(spacing, first, grid, strict=True)),
        indexing="ij",
    )
    codes = []
    for positions in (columns, rows):
        angles_TF = positions.reshape(-1, 1) * frequencies
        codes += [np.sin(angles_TF), np.cos(angles_TF)]
    return torch.from_numpy(np.concatenate(codes, axis=1)).float()


def rotary_angles(head_width: int, grid: tuple[int, int]) -> Tensor:
    """Return the rotation of every pair of a head's channels at every token, radians, float32 (T, H/2).

    Axial form of Su et al. 2021 (RoFormer): half of the pairs turn with the row, half with the column.
    """
    frequencies = 10000.0 ** -(np.arange(head_width // 4) / (head_width / 4))
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    angles = [positions.reshape(-1, 1) * frequencies for positions in (rows, columns)]
    return torch.from_numpy(np.concatenate(angles, axis=1)).float()


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the channel pairs (k, k + H/2) of x (B, N, T, H) by angles with cosine and sine (T, H/2)."""
    cosine, sine = rotary
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], dim=-1).to(x.dtype)


class Linear(nn.Linear):
    """A linear map of x (..., D).

    Compiled for a CPU, the bias is added after the product, so that it is fused with what follows: a product that
    starts from a bias takes a third longer there. Not compiled and without gradients, what follows is fused into the
    product instead: in bf16, a separate GELU takes longer than the product before it.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() and x.device.type == "cpu":
            product = F.linear(x, self.weight)
            return (product.float() + self.bias).to(product.dtype)
        return self._at_once(x, "none") if self._is_one_kernel() else super().forward(x)

    def forward_gelu(self, x: Tensor) -> Tensor:
        """Return gelu(forward(x))."""
        return self._at_once(x, "gelu") if self._is_one_kernel() else gelu(self(x))

    def _is_one_kernel(self) -> bool:
        """Whether torch's compiler would pass the product and what follows to oneDNN: so can we, without it."""
        if not _ONE_KERNEL or self.weight.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        autocast = torch.is_autocast_enabled("cpu")
        computed_in = torch.get_autocast_dtype("cpu") if autocast else self.weight.dtype
        return computed_in == torch.bfloat16 and not torch.is_grad_enabled()

    def _at_once(self, x: Tensor, after: str) -> Tensor:
        inputs = (each.to(torch.bfloat16) for each in (x, self.weight, self.bias))
        out: Tensor = torch.ops.mkldnn._linear_pointwise(*inputs, after, [], "tanh")
        return out


class Attention(nn.Module):
    """Multi-head self-attention over x (B, T, D), optionally with normalised queries and keys.

    out: whether a linear map follows. QK-norm: Henry et al. 2020, as RMSNorm with learned weights over each head
    (Dehghani et al. 2023 use LayerNorm).
    """

    def __init__(self, width: int, heads: int, qk_norm: bool, out: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.q_norm = nn.RMSNorm(width // heads, eps=EPS) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(width // heads, eps=EPS) if qk_norm else nn.Identity()
        self.out = Linear(width, width) if out else nn.Identity()

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None = None, mask: Tensor | None = None) -> Tensor:
        """mask: bool, broadcast to (B, N, T, T): which tokens each may attend to."""
        q, k, v = self.split(x)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        mixed_BNTH = attend(q, k, v, mask)
        return self.out(mixed_BNTH.transpose(1, 2).flatten(2))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values (B, N, T, H)."""
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in self.qkv(x).chunk(3, dim=-1))
        return self.q_norm(q), self.k_norm(k), v


class Mlp(nn.Module):
    """Two linear maps with a GELU (tanh form) between them, over each token."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up.forward_gelu(x))


class SwiGLU(nn.Module):
    """Gated linear unit, (silu(W₁x) ⊙ W₂x) W₃ (Shazeer 2020); 2/3 of the hidden width, so that parameters are equal."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        inner = 8 * math.ceil(hidden * 2 / 3 / 8)
        self.up = Linear(width, 2 * inner)
        self.down = Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class TimestepEmbedding(nn.Module):
    """A vector (B, D) for each time (B,): sinusoids of `scale · t`, then two linear maps with a SiLU between them.

    Frequency k of F = frequencies / 2 is 10000^(-k / (F - shift)): shift 0 is the table of Vaswani et al. 2017 that
    the DiT authors' checkpoints were trained with, shift 1 that of Ho et al. 2020 (DDPM), which diffusers' DiT uses.
    """

    def __init__(self, width: int, frequencies: int, scale: float, shift: int) -> None:
        super().__init__()
        self.scale = scale
        half = frequencies // 2
        table = 10000.0 ** -(np.arange(half) / (half - shift))
        self.table: Tensor
        self.register_buffer("table", torch.from_numpy(table).float(), persistent=False)
        self.up = Linear(frequencies, width)
        self.down = Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        angles_BF = (t * self.scale).float()[:, None] * self.table
        return self.down(F.silu(self.up(torch.cat([angles_BF.cos(), angles_BF.sin()], dim=-1))))


def zeroed(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """Set a layer to 0, so that its block begins as the identity; return it."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


@runtime_checkable
class StartsAtZero(Protocol):
    """A module that, however the network around it is initialised, adds nothing until it is trained."""

    def start_at_zero(self) -> None:
        """Set the layers to 0 whose outputs are added."""


class ScalarEmbeddings(nn.ModuleDict):
    """A vector (B, width) for each scalar field (B,) of a condition, by its name; all are 0 until they are trained.

    A network that is given them after its training computes at first what it did before. The condition of crops (B, 3)
    is one of them, which may be absent: then images are whole.
    """

    def __init__(self, names: Sequence[str], width: int) -> None:
        super().__init__({name: CropEmbedding(width) if name == CROP else _scalar_embedding(width) for name in names})
        self.start_at_zero()

    def start_at_zero(self) -> None:
        for embedding in self.values():
            zeroed(embedding if isinstance(embedding, CropEmbedding) else embedding.down)  # type: ignore[arg-type]

    def vectors(self, cond: Cond) -> list[Tensor]:
        """Return the vectors (B, width) of a condition's scalars."""
        return [embedding(cond[name]) for name, embedding in self.items() if name != CROP or name in cond]


def _scalar_embedding(width: int) -> TimestepEmbedding:
    return TimestepEmbedding(width, 256, scale=100.0, shift=0)


def initialise(network: nn.Module, time: TimestepEmbedding, silent: Iterable[nn.Module]) -> None:
    """Draw a network's weights as the DiT's code does, with zeros where blocks must start as the identity (adaLN-Zero).

    Xavier-uniform linear maps, N(0, 0.02) for the time's; tables have theirs from their own classes. silent: linear
    maps that begin with nothing to add, such as those to modulations and the output. With gates of 0 each block is the
    identity, and the first prediction is 0.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for linear in (time.up, time.down):
        nn.init.normal_(linear.weight, std=0.02)
    for module in network.modules():
        if isinstance(module, StartsAtZero):
            module.start_at_zero()
    for module in silent:
        assert isinstance(module, nn.Linear)
        zeroed(module)
