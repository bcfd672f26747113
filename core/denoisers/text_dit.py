"""The diffusion transformer with a text: its tokens in the sequence of the image's, or attended to by every block.

Baselines of the multimodal transformer (Esser et al. 2024, section 5): DiT and CrossDiT.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..conditioning.labels import LABELS
from ..diffusion.conditions import Cond
from .dit import Block, register_positions
from .layers import (
    Linear,
    ScalarEmbeddings,
    TimestepEmbedding,
    from_patches,
    initialise,
    modulate,
    normalise,
    to_patches,
)
from .network import DenoiserNetwork
from .text import TEXT_FIELDS, CrossAttention, TextInput
from .text_dit_config import TextDiTConfig

Turned = tuple[Tensor, Tensor]


class TextBlock(nn.Module):
    """A DiT's block; with cross-attention between its attention and its MLP, or with a mask of the sequence."""

    def __init__(self, config: TextDiTConfig) -> None:
        super().__init__()
        self.block = Block(config)
        self.cross = CrossAttention(config.width, config.heads) if config.text == "cross" else None

    def forward(
        self, x: Tensor, modulation: Tensor, rotary: Turned | None, mask: Tensor | None, keys_values: Turned | None
    ) -> Tensor:
        """x: (B, T, D), or with the text (B, T + L, D). modulation: (B, 6 D). keys_values: (B, L, D), of the text.

        mask: bool (B, T + L), or (B, L) with cross-attention, which tokens are valid.
        """
        parts = modulation[:, None].chunk(6, dim=-1)
        if self.cross is None:
            x = self.block.mix(x, parts[:3], rotary, None if mask is None else mask[:, None, None, :])
        else:
            assert keys_values is not None
            x = self.block.mix(x, parts[:3], rotary)
            x = x + self.cross(normalise(x, self.block.rms), *keys_values, mask)
        return self.block.transform(x, parts[3:])


class TextDiT(DenoiserNetwork):
    """The transformer over patches of latents, given a text; a class is a text of one token.

    Hidden states are the image's tokens (B, T, D).
    """

    fields: ClassVar[tuple[str, ...]] = (LABELS, *TEXT_FIELDS)
    config: TextDiTConfig

    def __init__(self, config: TextDiTConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size
        self.patch = Linear(config.latent_channels * patch**2, width)
        self.time = TimestepEmbedding(width, config.frequencies, config.time_scale, config.frequency_shift)
        self.text = TextInput(config, labels=True)
        self.context = Linear(config.context_width, width)
        self.pooled_up, self.pooled_down = Linear(config.summary_width, width), Linear(width, width)
        self.scalars = ScalarEmbeddings(config.scalars, width)
        self.blocks = nn.ModuleList(TextBlock(config) for _ in range(config.depth))
        outputs = [6 * width] * config.depth + [2 * width]  # of each block, and of the final layer
        self.modulation = nn.ModuleList(Linear(width, num) for num in outputs)
        self.final = Linear(width, patch**2 * config.out_channels)
        self.cosine: Tensor
        self.sine: Tensor
        register_positions(self, config)
        # A block's cross-attention begins with nothing to add, as all that its gates hold back.
        crossing = [module.out for module in self.modules() if isinstance(module, CrossAttention)]
        initialise(self, self.time, (*self.modulation, *crossing, self.final))

    @property
    def training_flops(self) -> float:
        """6 operations per token and weight."""
        tokens, texts = self.config.num_tokens, self.text.length
        total = self.text.products()
        for name, parameter in self.blocks.named_parameters():
            if ".cross.kv." in name:
                total += parameter.numel() * texts
            else:
                total += parameter.numel() * (tokens + (texts if self.config.text == "sequence" else 0))
        return 6.0 * total

    def prepare(self, cond: Cond) -> Cond:
        tokens, valid, pooled = self.text(cond)
        context = self.context(tokens)
        vectors = [self.pooled_down(F.silu(self.pooled_up(pooled))), *self.scalars.vectors(cond)]
        prepared = {"given": torch.stack(vectors).sum(0)}
        if self.config.takes_text:
            prepared["valid"] = valid
        if self.config.text == "sequence":
            return {**prepared, "context": context}
        for i, block in enumerate(self.blocks):
            assert isinstance(block, TextBlock) and block.cross is not None
            prepared[f"k.{i}"], prepared[f"v.{i}"] = block.cross.keys_values(context)
        return prepared

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond, taps: tuple[int, ...] = ()) -> Any:
        # Time, text and scalars modulate every block, and the final layer.
        prepared = cond if "given" in cond else self.prepare(cond)
        condition = F.silu(self.time(t) + prepared["given"])
        modulations = [linear(condition) for linear in self.modulation]

        # Tokens of the latent, float32 or wider, also under autocast; behind them those of the text, if they go there.
        tokens, mask = self.patch(to_patches(x_t, self.config.patch_size)), prepared.get("valid")
        tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        rotary = (self.cosine, self.sine) if self.config.rope else None
        tokens = tokens if rotary else tokens + self.positions
        if self.config.text == "sequence":
            text = prepared["context"]
            tokens = torch.cat([tokens, text.to(tokens.dtype)], dim=1)
            mask = None if mask is None else F.pad(mask, (self.config.num_tokens, 0), value=True)
            if rotary:  # Tokens of the text are not turned.
                more = (0, 0, 0, text.shape[1])
                rotary = F.pad(rotary[0], more, value=1.0), F.pad(rotary[1], more)

        # The blocks. taps: after which of them the hidden states are returned too.
        hidden = {}
        for i, (block, modulation) in enumerate(zip(self.blocks, modulations[:-1], strict=True)):
            keys_values = (prepared[f"k.{i}"], prepared[f"v.{i}"]) if f"k.{i}" in prepared else None
            given = (tokens, modulation, rotary, mask, keys_values)
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, *given, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(*given)
            if i in taps:
                hidden[i] = tokens[:, : self.config.num_tokens]

        # The final layer, tokens back to an image (B, C or 2C, H, W).
        shift, scale = modulations[-1][:, None].chunk(2, dim=-1)
        tokens = tokens[:, : self.config.num_tokens]
        out = self.final(modulate(normalise(tokens, self.config.rmsnorm), shift, scale))
        image = from_patches(out, self.config.patch_size, self.config.grid).to(x_t.dtype)
        return (image, hidden) if taps else image
