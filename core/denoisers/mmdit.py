"""The multimodal diffusion transformer (Esser et al. 2024, "Scaling rectified flow transformers", section 4).

Tokens of the latent and of the text have weights of their own, and attend to each other as one sequence.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..conditioning.labels import LABELS
from ..diffusion.conditions import Cond
from ..system.attention import attend
from .layers import (
    Attention,
    Linear,
    Mlp,
    ScalarEmbeddings,
    TimestepEmbedding,
    from_patches,
    initialise,
    modulate,
    normalise,
    sincos_positions,
    to_patches,
)
from .mmdit_config import MMDiTConfig
from .network import DenoiserNetwork
from .text import TEXT_FIELDS, TextInput


class JointBlock(nn.Module):
    """Attention of both streams together, then an MLP of each; normalised, modulated and gated by the condition.

    last: the text is only attended to, and not changed any more. dual: the latent's tokens have a second attention
    among themselves, of the same input (Stable Diffusion 3.5).
    """

    def __init__(self, config: MMDiTConfig, last: bool, dual: bool) -> None:
        super().__init__()
        width, heads, qk_norm = config.width, config.heads, config.qk_norm
        self.attention = Attention(width, heads, qk_norm)
        self.text_attention = Attention(width, heads, qk_norm, out=not last)
        self.dual = Attention(width, heads, qk_norm) if dual else None
        self.mlp = Mlp(width, 4 * width)
        self.text_mlp = None if last else Mlp(width, 4 * width)

    def forward(
        self, x: Tensor, text: Tensor, modulation: Tensor, text_modulation: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x: (B, T, D). text: (B, L, D). Modulations (B, 6 D): shift, scale and gate of the attention, then of the MLP.

        With `dual`, x's has three more, of that attention. The text's of the last block: shift and scale alone. mask:
        bool (B, 1, 1, T + L), which tokens are valid.
        """
        width = x.shape[-1]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m, *second = modulation[:, None].split(width, dim=-1)
        of_text = text_modulation[:, None].split(width, dim=-1)

        # One attention over the latent's tokens and then the text's.
        normal = normalise(x, rms=False)
        own = self.attention.split(modulate(normal, shift_a, scale_a))
        others = self.text_attention.split(modulate(normalise(text, rms=False), of_text[0], of_text[1]))
        q, k, v = (torch.cat(both, dim=2) for both in zip(own, others, strict=True))
        mixed, mixed_text = attend(q, k, v, mask).transpose(1, 2).flatten(2).split([x.shape[1], text.shape[1]], dim=1)

        x = torch.addcmul(x, gate_a, self.attention.out(mixed))
        if self.dual is not None:
            x = torch.addcmul(x, second[2], self.dual(modulate(normal, second[0], second[1])))
        x = torch.addcmul(x, gate_m, self.mlp(modulate(normalise(x, rms=False), shift_m, scale_m)))
        if self.text_mlp is None:
            return x, text
        text = torch.addcmul(text, of_text[2], self.text_attention.out(mixed_text))
        normal = modulate(normalise(text, rms=False), of_text[3], of_text[4])
        return x, torch.addcmul(text, of_text[5], self.text_mlp(normal))


class MMDiT(DenoiserNetwork):
    """The transformer over patches of latents and tokens of a text. Hidden states are the latent's tokens (B, T, D).

    A class is a text of one token. Latents may have another size than those it was trained on.
    """

    fields: ClassVar[tuple[str, ...]] = (LABELS, *TEXT_FIELDS)
    any_size: ClassVar[bool] = True
    config: MMDiTConfig

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size
        self.patch = Linear(config.latent_channels * patch**2, width)
        self.time = TimestepEmbedding(width, 256, config.time_scale, shift=0)
        self.text = TextInput(config, labels=True)
        self.context = Linear(config.context_width, width)
        self.pooled_up, self.pooled_down = Linear(config.summary_width, width), Linear(width, width)
        self.scalars = ScalarEmbeddings(config.scalars, width)

        last = config.depth - 1
        self.blocks = nn.ModuleList(JointBlock(config, i == last, i < config.dual) for i in range(config.depth))
        # Of each block, and of the final layer.
        outputs = [(9 if i < config.dual else 6) * width for i in range(config.depth)] + [2 * width]
        self.modulation = nn.ModuleList(Linear(width, num) for num in outputs)
        self.text_modulation = nn.ModuleList(Linear(width, (2 if i == last else 6) * width) for i in range(last + 1))
        self.final = Linear(width, patch**2 * config.out_channels)
        self.positions: Tensor
        self.register_buffer("positions", self._positions(config.grid), persistent=False)
        initialise(self, self.time, (*self.modulation, *self.text_modulation, self.final))

    @property
    def training_flops(self) -> float:
        """6 operations per token and weight."""
        total = 0
        for name, parameter in self.blocks.named_parameters():
            total += parameter.numel() * (self.text.length if ".text_" in name else self.config.num_tokens)
        return 6.0 * (total + self.text.products())

    def prepare(self, cond: Cond) -> Cond:
        tokens, valid, pooled = self.text(cond)
        vectors = [self.pooled_down(F.silu(self.pooled_up(pooled))), *self.scalars.vectors(cond)]
        prepared = {"given": torch.stack(vectors).sum(0), "context": self.context(tokens)}
        return {**prepared, "valid": valid} if self.config.takes_text else prepared

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond, taps: tuple[int, ...] = ()) -> Any:
        # Time, text and scalars modulate every block, and the final layer.
        prepared = cond if "given" in cond else self.prepare(cond)
        condition = F.silu(self.time(t) + prepared["given"])
        modulations = [linear(condition) for linear in self.modulation]
        of_texts = [linear(condition) for linear in self.text_modulation]

        # Two streams, float32 or wider, also under autocast; and which of their tokens are valid.
        grid = x_t.shape[2] // self.config.patch_size, x_t.shape[3] // self.config.patch_size
        positions = self.positions if grid == self.config.grid else self._positions(grid).to(self.positions.device)
        tokens = self.patch(to_patches(x_t, self.config.patch_size)) + positions
        text = prepared["context"]
        text = text.to(torch.promote_types(text.dtype, torch.float32))
        valid = prepared.get("valid")
        mask = None if valid is None else F.pad(valid, (tokens.shape[1], 0), value=True)[:, None, None]

        # The blocks. taps: after which of them the hidden states are returned too.
        hidden = {}
        for i, (block, modulation, of_text) in enumerate(zip(self.blocks, modulations, of_texts, strict=False)):
            if self.checkpointing and torch.is_grad_enabled():
                given = (tokens, text, modulation, of_text, mask)
                tokens, text = checkpoint(block, *given, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens, text = block(tokens, text, modulation, of_text, mask)
            if i in taps:
                hidden[i] = tokens

        # The final layer, tokens back to an image (B, C or 2C, H, W).
        shift, scale = modulations[-1][:, None].chunk(2, dim=-1)
        out = self.final(modulate(normalise(tokens, rms=False), shift, scale))
        image = from_patches(out, self.config.patch_size, grid).to(x_t.dtype)
        return (image, hidden) if taps else image

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the codes (T, D) of the centre of the table; of a larger grid they go on beyond it, as far apart."""
        side, base = self.config.position_side, self.config.position_base
        first = (side - grid[0]) // 2, (side - grid[1]) // 2
        return sincos_positions(self.config.width, grid, first, (base / side, base / side))
