"""The diffusion transformer with adaLN-Zero (Peebles & Xie 2023, "Scalable diffusion models with transformers")."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..conditioning.labels import LabelEmbedding
from ..diffusion.conditions import Cond
from .dit_config import DiTConfig
from .layers import (
    Attention,
    Linear,
    Mlp,
    ScalarEmbeddings,
    SwiGLU,
    TimestepEmbedding,
    from_patches,
    initialise,
    modulate,
    normalise,
    rotary_angles,
    sincos_positions,
    to_patches,
)
from .network import DenoiserNetwork


class Block(nn.Module):
    """Attention, then an MLP, each normalised, modulated and gated by the condition (adaLN-Zero)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.rms = config.rmsnorm
        self.attention = Attention(config.width, config.heads, config.qk_norm)
        self.mlp = (SwiGLU if config.swiglu else Mlp)(config.width, int(config.width * config.mlp_ratio))

    def forward(self, x: Tensor, modulation: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """x: (B, T, D). modulation: (B, 6 D), shift, scale and gate of the attention, then of the MLP."""
        parts = modulation[:, None].chunk(6, dim=-1)
        return self.transform(self.mix(x, parts[:3], rotary), parts[3:])

    def mix(
        self,
        x: Tensor,
        modulation: tuple[Tensor, ...],
        rotary: tuple[Tensor, Tensor] | None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Add the attention; modulation: shift, scale, gate (B, 1, D). mask: of its keys, as `Attention` takes it."""
        shift, scale, gate = modulation
        return torch.addcmul(x, gate, self.attention(modulate(normalise(x, self.rms), shift, scale), rotary, mask))

    def transform(self, x: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        """Add the MLP; modulation: shift, scale and gate (B, 1, D)."""
        shift, scale, gate = modulation
        return torch.addcmul(x, gate, self.mlp(modulate(normalise(x, self.rms), shift, scale)))


class DiT(DenoiserNetwork):
    """The transformer over patches of latents; `num_classes` is the null class. Hidden states are tokens (B, T, D)."""

    fields: ClassVar[tuple[str, ...]] = ("labels",)
    takes_scalars: ClassVar[bool] = True
    config: DiTConfig

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        # Patches to tokens (B, T, D); time and label to one condition (B, D).
        width, patch = config.width, config.patch_size
        self.patch = Linear(config.latent_channels * patch**2, width)
        self.time = TimestepEmbedding(width, config.frequencies, config.time_scale, config.frequency_shift)
        self.label = LabelEmbedding(config.num_classes, config.has_null, width) if config.num_classes else None
        self.scalars = ScalarEmbeddings(config.scalars, width)

        # Modulations are computed by one linear map a block, outside of the blocks: all need the condition alone.
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        outputs = [6 * width] * config.depth + [2 * width]  # of each block, and of the final layer
        self.modulation = nn.ModuleList(Linear(width, num) for num in outputs)
        self.final = Linear(width, patch**2 * config.out_channels)
        register_positions(self, config)
        initialise(self, self.time, (*self.modulation, self.final))

    @property
    def training_flops(self) -> float:
        """6 operations per token and weight."""
        return 6.0 * self.config.num_tokens * sum(p.numel() for p in self.blocks.parameters())

    def prepare(self, cond: Cond) -> Cond:
        vectors = [] if self.label is None else [self.label(cond["labels"])]
        vectors += self.scalars.vectors(cond)
        return {"given": torch.stack(vectors).sum(0) if len(vectors) > 1 else vectors[0]} if vectors else {}

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond, taps: tuple[int, ...] = ()) -> Any:
        # Time, label and scalars modulate every block, and the final layer.
        condition = self.time(t)
        prepared = cond if "given" in cond else self.prepare(cond)
        if prepared:
            condition = condition + prepared["given"]
        condition = F.silu(condition)
        modulations = [linear(condition) for linear in self.modulation]

        # (B, C, H, W) → tokens (B, T, D). Their positions: rotary angles in every attention, or a sum at the start.
        tokens = self.patch(to_patches(x_t, self.config.patch_size))
        rotary = (self.cosine, self.sine) if self.config.rope else None
        # The residual stream is float32 or wider, also under autocast.
        tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32)) if rotary else tokens + self.positions

        # The blocks. taps: after which of them the hidden states are returned too.
        hidden = {}
        for i, (block, modulation) in enumerate(zip(self.blocks, modulations[:-1], strict=True)):
            if self.checkpointing and torch.is_grad_enabled():
                # A block draws nothing, so the state of generators is not kept for it.
                tokens = checkpoint(block, tokens, modulation, rotary, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(tokens, modulation, rotary)
            if i in taps:
                hidden[i] = tokens

        # The final layer, tokens back to an image (B, C or 2C, H, W).
        shift, scale = modulations[-1][:, None].chunk(2, dim=-1)
        out = self.final(modulate(normalise(tokens, self.config.rmsnorm), shift, scale))
        image = from_patches(out, self.config.patch_size, self.config.grid).to(x_t.dtype)
        return (image, hidden) if taps else image


def register_positions(network: nn.Module, config: DiTConfig) -> None:
    """Give a network the positions of its latents' tokens: rotary angles, or vectors that are added."""
    if config.rope:
        angles = rotary_angles(config.width // config.heads, config.grid)
        network.register_buffer("cosine", angles.cos(), persistent=False)
        network.register_buffer("sine", angles.sin(), persistent=False)
    else:
        network.register_buffer("positions", sincos_positions(config.width, config.grid), persistent=False)
