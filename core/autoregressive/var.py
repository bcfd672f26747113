"""The next-scale transformer (Tian et al. 2024, "Visual autoregressive modeling").

All tokens of a scale are predicted at once, from the class and what the scales before add up to. Tokens attend to
their own scale and to coarser ones. The block is DiT's with the class alone as its condition (adaLN).
"""

import math
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..conditioning.labels import LabelEmbedding
from ..denoisers.layers import Linear, Mlp, modulate, normalise
from ..diffusion.conditions import Cond
from ..system.attention import attend
from .var_config import NextScaleConfig

Past = list[tuple[Tensor, Tensor]]  # keys and values of the scales before
_LARGEST_SCALE = math.log(100)


class Attention(nn.Module):
    """Self-attention whose queries and keys have unit length, times a learned scale for each head.

    Without `qk_norm`, queries · keys are divided by four times the root of a head's width, as published.
    """

    def __init__(self, config: NextScaleConfig) -> None:
        super().__init__()
        self.heads, width = config.heads, config.width
        self.qkv = nn.Linear(width, 3 * width, bias=False)  # Keys have no bias.
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.log_scale = nn.Parameter(torch.full((config.heads, 1, 1), math.log(4))) if config.qk_norm else None
        self.out = Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None, past: Past | None) -> Tensor:
        """x: (B, T, D). mask: (T, T), where a query may attend. past: gets the tokens' keys and values."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight)
        qkv = qkv + bias.to(qkv.dtype)  # A sum in fp32 would make all of the attention fp32 under autocast.
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in qkv.chunk(3, dim=-1))
        scale = 0.25 * q.shape[-1] ** -0.5
        if self.log_scale is not None:
            factor, scale = self.log_scale.clamp(max=_LARGEST_SCALE).exp(), 1.0
            q, k = (F.normalize(q.float(), dim=-1) * factor).to(v.dtype), F.normalize(k.float(), dim=-1).to(v.dtype)
        if past is not None:
            past.append((k, v))
            k, v = (torch.cat(parts, dim=2) for parts in zip(*past, strict=True))
        return self.out(attend(q, k, v, mask, scale).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then an MLP, each normalised, modulated and gated by the condition."""

    def __init__(self, config: NextScaleConfig, drop: float) -> None:
        super().__init__()
        self.drop = drop
        self.attention = Attention(config)
        self.mlp = Mlp(config.width, int(config.width * config.mlp_ratio))
        shared = config.shared_modulation
        self.offset = nn.Parameter(torch.randn(6, config.width) / config.width**0.5) if shared else None
        self.modulation = None if shared else Linear(config.width, 6 * config.width)

    def forward(
        self, x: Tensor, condition: Tensor, mask: Tensor | None, past: Past | None = None, keep: Tensor | None = None
    ) -> Tensor:
        """x: (B, T, D). condition: (B, D), or the shared modulation (B, 6 D). keep: (B, 2), in [0, 1), see `kept`."""
        if self.modulation is None:
            assert self.offset is not None, "a shared modulation has an offset"
            modulation = self.offset + condition.unflatten(-1, (6, -1))
        else:
            modulation = self.modulation(condition).unflatten(-1, (6, -1))
        gate_a, gate_m, scale_a, scale_m, shift_a, shift_m = modulation[:, None].unbind(dim=2)
        if keep is not None:
            # Stochastic depth (Huang et al. 2016): a sample skips a sum, which is larger where it is kept.
            kept = (keep >= self.drop).to(gate_a.dtype) / (1 - self.drop)
            gate_a, gate_m = gate_a * kept[:, :1, None], gate_m * kept[:, 1:, None]
        x = torch.addcmul(x, gate_a, self.attention(modulate(normalise(x, rms=False), shift_a, scale_a), mask, past))
        return torch.addcmul(x, gate_m, self.mlp(modulate(normalise(x, rms=False), shift_m, scale_m)))


class NextScaleTransformer(nn.Module):
    """The transformer over tokens of all scales; `num_classes` is the null class."""

    fields: ClassVar[tuple[str, ...]] = ("labels",)

    def __init__(self, config: NextScaleConfig) -> None:
        super().__init__()
        self.config = config
        width, sizes = config.width, config.tokens_of_scale
        # Without classes, one vector stands for all.
        rows = (config.num_classes, config.has_null) if config.num_classes else (1, False)
        self.label = LabelEmbedding(*rows, width)
        self.start = nn.Parameter(torch.empty(sizes[0], width))
        self.inputs = Linear(config.code_channels, width)
        self.levels = nn.Parameter(torch.empty(len(sizes), width))
        self.positions = nn.Parameter(torch.empty(config.num_tokens, width))
        self.modulation = Linear(width, 6 * width) if config.shared_modulation else None
        self.blocks = nn.ModuleList(Block(config, rate) for rate in config.drop_rates)
        self.final_modulation = Linear(width, 2 * width)
        self.head = Linear(width, config.codebook_size)
        level = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))  # by numpy: real on the meta device, too
        self.level: Tensor
        self.mask: Tensor
        self.register_buffer("level", level, persistent=False)
        self.register_buffer("mask", level[:, None] >= level[None], persistent=False)
        self._initialise()

    @property
    def training_flops(self) -> float:
        """Floating point operations of a training step per image: products with weights, and attention."""
        tokens, width = self.config.num_tokens, self.config.width
        modulations = 0 if self.config.shared_modulation else 6 * width * (width + 1)
        of_tokens = sum(p.numel() for p in self.blocks.parameters()) - self.config.depth * modulations
        attention = 12.0 * self.config.depth * width * tokens**2
        return 6.0 * (tokens * of_tokens + self.config.depth * modulations) + attention

    def forward(self, inputs: Tensor, cond: Cond, keep: Tensor | None = None) -> Tensor:
        """Return the logits (B, L, V) of the tokens of all scales, coarse to fine, row by row.

        inputs: (B, L - p_0 p_0, C), what the scales before each add up to, at its own size. keep: (B, depth, 2) in
        [0, 1), each sample's draws for stochastic depth in training.
        """
        vector = self.vector(cond, len(inputs))
        first = vector[:, None] + self.start
        x = torch.cat([first, self.inputs(inputs)], dim=1) + (self.positions + self.levels[self.level])
        condition = self.condition(vector)
        for i, block in enumerate(self.blocks):
            x = block(x, condition, self.mask, keep=None if keep is None else keep[:, i])
        return self._logits(x, vector)

    def scale_logits(self, k: int, inputs: Tensor | None, vector: Tensor, past: list[Past]) -> Tensor:
        """Return the logits (B, p p, V) of scale k, whose keys and values are added to `past`, a list for each block.

        inputs: (B, p p, C), what the scales before add up to; None for the first. vector: (B, D), the condition's.
        """
        before = sum(self.config.tokens_of_scale[:k])
        own = slice(before, before + self.config.tokens_of_scale[k])
        x = vector[:, None] + self.start if inputs is None else self.inputs(inputs)
        x = x + (self.positions[own] + self.levels[k])
        condition = self.condition(vector)
        for block, of_block in zip(self.blocks, past, strict=True):
            x = block(x, condition, None, past=of_block)
        return self._logits(x, vector)

    def vector(self, cond: Cond, count: int) -> Tensor:
        """Return the vector (B, D) of a condition of `count` samples."""
        labels = cond["labels"] if self.config.num_classes else self.level.new_zeros(count)
        return self.label(labels)

    def condition(self, vector: Tensor) -> Tensor:
        """Return what the blocks take: (B, D), or their shared modulation (B, 6 D)."""
        condition = F.silu(vector)
        return condition if self.modulation is None else self.modulation(condition)

    def _logits(self, x: Tensor, vector: Tensor) -> Tensor:
        scale, shift = self.final_modulation(F.silu(vector))[:, None].chunk(2, dim=-1)
        return self.head(modulate(normalise(x, rms=False), shift, scale))

    def _initialise(self) -> None:
        """As published: N(0, 1 / 3D) truncated, little for the head and the modulations, next to nothing for gates."""
        width, deviation = self.config.width, (1 / (3 * self.config.width)) ** 0.5
        for parameter in (self.label.table.weight, self.start, self.levels, self.positions):
            nn.init.trunc_normal_(parameter, std=deviation)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=deviation)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.head.weight.mul_(0.02)
            self.final_modulation.weight.mul_(0.5)
            for block in self.blocks:
                assert isinstance(block, Block), "blocks"
                for out in (block.attention.out, block.mlp.down):
                    out.weight.div_((2 * self.config.depth) ** 0.5)
                six = block.offset if block.modulation is None else block.modulation.weight.view(6, width, width)
                assert six is not None, "a modulation, or its offset"
                six[:2].mul_(1e-5)
                six[2:].mul_(0.5)
