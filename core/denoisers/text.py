"""Text as denoisers take it: vectors of tokens, a mask, and one vector of the whole text.

Shape suffixes: B batch, L tokens, W width.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..conditioning.labels import LABELS, LabelEmbedding
from ..conditioning.text import IDS, MASK, POOLED, TOKENS
from ..diffusion.conditions import Cond
from ..system.attention import attend
from .layers import EPS, Attention, Linear, Mlp, zeroed
from .text_config import TextDenoiserConfig

TEXT_FIELDS = (IDS, TOKENS, MASK, POOLED)  # of a condition


class TextLayer(nn.Module):
    """Attention between the valid tokens, then an MLP, each of the normalised tokens and added to them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(width, eps=EPS)
        self.attention = Attention(width, heads, qk_norm=True)
        self.norm2 = nn.RMSNorm(width, eps=EPS)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: (B, L, W). mask: bool (B, 1, 1, L)."""
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.mlp(self.norm2(x))


class TextTower(nn.Module):
    """A transformer over the ids of a text, in which every token sees all others; it ends in an RMSNorm.

    Trained together with the denoiser, as the one of Rombach et al. 2022 for text. The last id stands for all that it
    does not know. Layers begin with nothing to add: tokens are then their embeddings. With random layers, a denoiser
    needs several times as many images until it follows words.
    """

    class_axes: ClassVar[dict[str, int]] = {"table.weight": 0}

    def __init__(self, vocabulary: int, length: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(length, width))
        self.layers = nn.ModuleList(TextLayer(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=EPS)
        nn.init.normal_(self.table.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)
        self.start_at_zero()

    def start_at_zero(self) -> None:
        for layer in self.layers:
            assert isinstance(layer, TextLayer)
            for added in (layer.attention.out, layer.mlp.down):
                assert isinstance(added, nn.Linear)
                zeroed(added)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return vectors (B, L, W) for ids (B, L), L up to the length that it was made for; 0 where mask is false."""
        x = self.table(ids) + self.positions[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, mask[:, None, None, :])
        return self.norm(x) * mask[..., None]


class TextInput(nn.Module):
    """Reads a condition's text: by a text network of its own from ids, or as a frozen encoder made it.

    Padding has no influence on what is valid, whatever its length. labels: a class is a token, too, behind those of a
    text, if there is any.
    """

    def __init__(self, config: TextDenoiserConfig, labels: bool = False) -> None:
        super().__init__()
        size = config.text_length, config.text_width, config.text_layers, config.text_heads
        self.tower = TextTower(config.vocabulary, *size) if config.vocabulary else None
        classes = config.num_classes if labels else 0
        self.label = LabelEmbedding(classes, config.has_null, config.context_width) if classes else None
        self.takes_text, self.length = config.takes_text, config.text_length + bool(classes)

    def forward(self, cond: Cond) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens (B, L, W), mask (B, L), and the vector of the whole: the encoder's own, or the tokens' mean.

        cond: `ids` (B, L), or `tokens` (B, L, W); `mask` (B, L), all valid without; `pooled` (B, P) of an encoder;
        `labels` (B,).
        """
        if self.label is None:
            return self._text(cond)
        label = self.label(cond[LABELS])
        token, valid = label[:, None], torch.ones_like(label[:, :1], dtype=torch.bool)
        if not self.takes_text:
            return token, valid, label
        tokens, mask, pooled = self._text(cond)
        return torch.cat([tokens, token], dim=1), torch.cat([mask, valid], dim=1), pooled

    def _text(self, cond: Cond) -> tuple[Tensor, Tensor, Tensor]:
        given = cond[TOKENS] if self.tower is None else cond[IDS]
        mask = cond[MASK] if MASK in cond else given.new_ones(given.shape[:2], dtype=torch.bool)
        tokens = given if self.tower is None else self.tower(given, mask)
        if POOLED in cond:
            return tokens, mask, cond[POOLED]
        valid = mask[..., None]
        return tokens, mask, (tokens * valid).sum(1) / valid.sum(1)

    def products(self) -> int:
        """Return the multiply-adds of its linear maps for a text of full length."""
        layers = [each for each in self.modules() if isinstance(each, nn.Linear)]
        return sum(layer.weight.numel() for layer in layers) * self.length


class CrossAttention(nn.Module):
    """Attention of x (B, T, D) to the tokens of a text, whose keys and values do not depend on x."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.out = Linear(width, width), Linear(width, 2 * width), Linear(width, width)

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (B, L, D) of tokens (B, L, D)."""
        k, v = self.kv(tokens).chunk(2, dim=-1)
        return k, v

    def forward(self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """mask: bool (B, L), which tokens are valid."""
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (self.q(x), k, v))
        seen = None if mask is None else mask[:, None, None, :]
        return self.out(attend(q, k, v, seen).transpose(1, 2).flatten(2))
