"""The diffusion transformer with linear attention (Xie et al. 2024, "SANA").

Its cost grows with the number of tokens and not its square. Positions are optional: depthwise convolutions tell what
is beside what, so that it takes latents of any size.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..conditioning.labels import LABELS
from ..diffusion.conditions import Cond
from ..system.attention import linear_attend
from .layers import (
    Attention,
    Linear,
    ScalarEmbeddings,
    TimestepEmbedding,
    from_patches,
    gelu,
    modulate,
    normalise,
    sincos_positions,
    to_patches,
    zeroed,
)
from .linear_dit_config import LinearDiTConfig
from .network import DenoiserNetwork
from .text import TEXT_FIELDS, CrossAttention, TextInput

_EPS_OF_TEXT = 1e-5
_SCALE_OF_TEXT = 0.01  # at first: a frozen encoder's texts, as loud as the image, drown it


class LinearAttention(nn.Module):
    """Self-attention whose weights are relu(q) · relu(k) (Katharopoulos et al. 2020)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        # (B, T, 3 D) → (B, N, H, T) each
        q, k, v = self.qkv(x).transpose(1, 2).unflatten(1, (3, self.heads, -1)).unbind(1)
        mixed = linear_attend(q.relu(), k.relu(), v).to(x.dtype)
        return self.out(mixed.flatten(1, 2).transpose(1, 2))


class GatedConvolution(nn.Module):
    """Mix-FFN: a wide map of each token, a depthwise convolution of 3 × 3, a gate, and back."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = Linear(width, 2 * hidden)
        self.depthwise = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x: (B, T, D), row by row over a grid (rows, columns)."""
        maps = F.silu(self.up(x)).transpose(1, 2).unflatten(2, grid)
        # Channels last, as they are, is faster; but compiled for a second size, torch fails on such strides.
        maps = maps.contiguous() if torch.compiler.is_compiling() else maps
        value, gate = self.depthwise(maps).flatten(2).transpose(1, 2).chunk(2, dim=-1)
        return self.down(value * F.silu(gate))


class LinearBlock(nn.Module):
    """Linear attention, attention to the text, a gated convolution; the time modulates and gates first and last.

    What the time gives is the same for all blocks but for a table of each.
    """

    def __init__(self, config: LinearDiTConfig) -> None:
        super().__init__()
        width = config.width
        self.attention: nn.Module
        if config.attention == "linear":
            self.attention = LinearAttention(width, config.heads)
        else:
            self.attention = Attention(width, config.heads, qk_norm=True)
        self.cross = CrossAttention(width, config.cross_heads)
        self.mlp = GatedConvolution(width, config.hidden)
        self.table = nn.Parameter(torch.randn(6, width) / width**0.5)

    def forward(
        self, x: Tensor, modulation: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, grid: tuple[int, int]
    ) -> Tensor:
        """x: (B, T, D). modulation: (B, 6, D). k, v: (B, L, D), of the text. mask: bool (B, L), its valid tokens."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (self.table + modulation).chunk(6, dim=1)
        x = torch.addcmul(x, gate_a, self.attention(modulate(normalise(x, rms=False), shift_a, scale_a)))
        x = x + self.cross(x, k, v, mask)
        return torch.addcmul(x, gate_m, self.mlp(modulate(normalise(x, rms=False), shift_m, scale_m), grid))


class LinearDiT(DenoiserNetwork):
    """The transformer over patches of latents of any size, given a text; a class is a text of one token.

    Hidden states are the image's tokens (B, T, D).
    """

    fields: ClassVar[tuple[str, ...]] = (LABELS, *TEXT_FIELDS)
    any_size: ClassVar[bool] = True
    config: LinearDiTConfig

    def __init__(self, config: LinearDiTConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size
        self.patch = Linear(config.latent_channels * patch**2, width)
        self.time = TimestepEmbedding(width, 256, config.time_scale, shift=0)
        self.scalars = ScalarEmbeddings(config.scalars, width)
        self.modulation = Linear(width, 6 * width)
        self.text = TextInput(config, labels=True)
        self.context_up, self.context_down = Linear(config.context_width, width), Linear(width, width)
        self.context_norm = nn.RMSNorm(width, eps=_EPS_OF_TEXT)
        self.blocks = nn.ModuleList(LinearBlock(config) for _ in range(config.depth))
        self.table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.final = Linear(width, patch**2 * config.out_channels)
        self.positions: Tensor | None
        self.register_buffer("positions", self._positions(config.grid), persistent=False)
        if not config.vocabulary:  # a text network that is trained with it begins quietly by itself
            nn.init.constant_(self.context_norm.weight, _SCALE_OF_TEXT)
        zeroed(self.final)

    @property
    def training_flops(self) -> float:
        """6 operations per token and weight, and those of attention.

        Linear attention of heads of width H has as many as maps to 2 (H + 1) more, softmax of T tokens as to 2 T.
        """
        width, tokens = self.config.width, self.config.num_tokens
        total = self.text.products()
        for name, parameter in self.blocks.named_parameters():
            total += parameter.numel() * (self.text.length if ".cross.kv." in name else tokens)
        seen = width // self.config.heads + 1 if self.config.attention == "linear" else tokens
        attention = 2 * seen + 2 * self.text.length
        return 6.0 * (total + tokens * width * attention * self.config.depth)

    def prepare(self, cond: Cond) -> Cond:
        tokens, valid, _ = self.text(cond)
        context = self.context_norm(self.context_down(gelu(self.context_up(tokens))))
        prepared = {"valid": valid} if self.config.takes_text else {}
        for i, block in enumerate(self.blocks):
            assert isinstance(block, LinearBlock)
            prepared[f"k.{i}"], prepared[f"v.{i}"] = block.cross.keys_values(context)
        if vectors := self.scalars.vectors(cond):
            prepared["scalars"] = torch.stack(vectors).sum(0)
        return prepared

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond, taps: tuple[int, ...] = ()) -> Any:
        # Time and scalars modulate every block, and the final layer.
        prepared = cond if "k.0" in cond else self.prepare(cond)
        time = self.time(t)
        time = time + prepared["scalars"] if "scalars" in prepared else time
        modulation = self.modulation(F.silu(time)).unflatten(1, (6, -1))

        # Tokens of the latent, float32 or wider, also under autocast.
        size = self.config.patch_size
        grid = x_t.shape[2] // size, x_t.shape[3] // size
        tokens = self.patch(to_patches(x_t, size))
        tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        positions = self.positions if grid == self.config.grid else self._positions(grid)
        tokens = tokens if positions is None else tokens + positions.to(tokens.device)

        # The blocks. taps: after which of them the hidden states are returned too.
        hidden = {}
        for i, block in enumerate(self.blocks):
            given = (tokens, modulation, prepared[f"k.{i}"], prepared[f"v.{i}"], prepared.get("valid"), grid)
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, *given, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(*given)
            if i in taps:
                hidden[i] = tokens

        # The final layer, tokens back to an image (B, C or 2C, H, W).
        shift, scale = (self.table + time[:, None]).chunk(2, dim=1)
        out = self.final(modulate(normalise(tokens, rms=False), shift, scale))
        image = from_patches(out, size, grid).to(x_t.dtype)
        return (image, hidden) if taps else image

    def _positions(self, grid: tuple[int, int]) -> Tensor | None:
        """Return the codes (T, D) of a grid's tokens, which span what those of the trained size do; None without."""
        apart = self.config.positions
        if apart is None:
            return None
        down, right = (apart * own / num for own, num in zip(self.config.grid, grid, strict=True))
        return sincos_positions(self.config.width, grid, spacing=(down, right))
