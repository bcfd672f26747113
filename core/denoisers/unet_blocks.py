"""The blocks of U-Nets: maps (B, C, h, w) to maps, given vectors of time and class, and keys and values of tokens.

Shape suffixes where the rank changes: B batch, T positions or tokens, C channels, N heads, H head width.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..system.attention import attend
from .layers import Linear, zeroed
from .unet_config import UNetConfig

Given = dict[str, Tensor]
"""time, label: vectors (B, E) after SiLU, apart or as their sum `both`. k.NAME, v.NAME, mask: of the tokens."""

_EPS_OF_TRANSFORMERS = 1e-6


def products(module: nn.Module, positions: int) -> int:
    """Return the multiply-adds of the linear maps and convolutions in a module at so many positions."""
    layers = [each for each in module.modules() if isinstance(each, (nn.Conv2d, nn.Linear))]
    return sum(layer.weight.numel() for layer in layers) * positions


class Modulation(nn.Module):
    """Scale and shift (B, C, 1, 1) of normalised maps, from time and class, or from their sum."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        self.split = config.modulation == "split"
        self.both = None if self.split else Linear(config.embedding, 2 * channels)
        self.time = Linear(config.embedding, channels) if self.split else None
        self.label = Linear(config.embedding, channels) if self.split else None

    def forward(self, given: Given) -> tuple[Tensor, Tensor]:
        if self.both is not None:
            scale, shift = self.both(given["both"])[..., None, None].chunk(2, dim=1)
            return scale, shift
        assert self.time is not None and self.label is not None
        return self.time(given["time"])[..., None, None], self.label(given["label"])[..., None, None]


class ResBlock(nn.Module):
    """Two normalised convolutions, the second norm modulated (AdaGN), or time + class added before it.

    Dhariwal & Nichol 2021; added: Ho et al. 2020. resample: of the maps of both branches, before the first convolution.
    """

    def __init__(
        self, config: UNetConfig, inputs: int, channels: int, resample: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.resample, self.added = resample, config.modulation == "add"
        self.norm1 = nn.GroupNorm(config.groups, inputs)
        self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1)
        self.modulation = Linear(config.embedding, channels) if self.added else Modulation(config, channels)
        self.norm2 = nn.GroupNorm(config.groups, channels)
        self.conv2 = zeroed(nn.Conv2d(channels, channels, 3, padding=1))
        self.skip = nn.Conv2d(inputs, channels, 1) if inputs != channels else nn.Identity()

    def forward(self, x: Tensor, given: Given) -> Tensor:
        maps = F.silu(self.norm1(x))
        if self.resample is not None:
            maps, x = self.resample(maps), self.resample(x)
        maps = self.conv1(maps)
        if self.added:
            maps = self.norm2(maps + self.modulation(given["both"])[..., None, None].to(maps.dtype))
        else:
            maps = modulated(self.norm2(maps), *self.modulation(given))
        return self.skip(x) + self.conv2(F.silu(maps))

    def products(self, positions: int) -> int:
        return products(self, positions) - products(self.modulation, positions - 1)


def modulated(maps: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return maps (1 + scale) + shift in the maps' dtype."""
    return torch.addcmul(shift.to(maps.dtype), maps, 1 + scale.to(maps.dtype))


class ConvNeXt(nn.Module):
    """A depthwise convolution of 7 x 7, then two maps of each position, with modulation between (Liu et al. 2022)."""

    def __init__(self, config: UNetConfig, inputs: int, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 7, padding=3, groups=inputs)
        self.norm = nn.GroupNorm(max(inputs // 4, 1), inputs)
        self.modulation = Modulation(config, inputs)
        self.up = nn.Conv2d(inputs, 2 * channels, 1)
        self.down = zeroed(nn.Conv2d(2 * channels, channels, 1))
        self.skip = nn.Conv2d(inputs, channels, 1) if inputs != channels else nn.Identity()

    def forward(self, x: Tensor, given: Given) -> Tensor:
        maps = modulated(self.norm(self.depthwise(x)), *self.modulation(given))
        return self.skip(x) + self.down(F.gelu(self.up(maps)))

    def products(self, positions: int) -> int:
        return products(self, positions) - products(self.modulation, positions - 1)


def tokens_of(maps: Tensor) -> Tensor:
    """(B, C, h, w) → (B, T, C)"""
    return maps.flatten(2).transpose(1, 2)


def maps_of(tokens: Tensor, like: Tensor) -> Tensor:
    """(B, T, C) → (B, C, h, w), in the layout of `like`."""
    maps = tokens.transpose(1, 2).unflatten(2, like.shape[2:])
    return maps if like.is_contiguous(memory_format=torch.channels_last) else maps.contiguous()


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, C) → (B, N, T, H)"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class SelfAttention(nn.Module):
    """Attention between all positions, added to the maps."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        self.heads = config.num_heads(channels)
        self.norm = nn.GroupNorm(config.groups, channels)
        self.qkv = Linear(channels, 3 * channels)
        self.out = zeroed(Linear(channels, channels))

    def forward(self, x: Tensor, given: Given) -> Tensor:
        q, k, v = (split_heads(each, self.heads) for each in self.qkv(tokens_of(self.norm(x))).chunk(3, dim=-1))
        mixed_BTC = attend(q, k, v).transpose(1, 2).flatten(2)
        return x + maps_of(self.out(mixed_BTC), x)

    def products(self, positions: int) -> int:
        return products(self, positions) + 2 * positions**2 * self.norm.num_channels


class CrossBlock(nn.Module):
    """A transformer's block: attention between positions, attention to tokens, a gated MLP (Rombach et al. 2022)."""

    def __init__(self, channels: int, heads: int, token_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out1 = Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.q = nn.Linear(channels, channels, bias=False)
        self.kv = nn.Linear(token_width, 2 * channels, bias=False)
        self.out2 = Linear(channels, channels)
        self.norm3 = nn.LayerNorm(channels)
        self.up = Linear(channels, 8 * channels)
        self.down = Linear(4 * channels, channels)

    def forward(self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q1, k1, v1 = (split_heads(each, self.heads) for each in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        x = x + self.out1(attend(q1, k1, v1).transpose(1, 2).flatten(2))
        q = split_heads(self.q(self.norm2(x)), self.heads)
        seen = None if mask is None else mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(q, split_heads(k, self.heads), split_heads(v, self.heads), seen)
        x = x + self.out2(mixed.transpose(1, 2).flatten(2))
        value, gate = self.up(self.norm3(x)).chunk(2, dim=-1)
        return x + self.down(value * F.gelu(gate))


class CrossAttention(nn.Module):
    """Transformer blocks over the positions, which attend to the tokens, added to the maps.

    name: of its keys and values.
    """

    def __init__(self, config: UNetConfig, channels: int, name: str) -> None:
        super().__init__()
        self.name = name
        self.norm = nn.GroupNorm(config.groups, channels, eps=_EPS_OF_TRANSFORMERS)
        self.first = Linear(channels, channels)
        heads = config.num_heads(channels)
        self.layers = nn.ModuleList(CrossBlock(channels, heads, config.context_width) for _ in range(config.depth))
        self.length = config.text_length
        self.last = zeroed(Linear(channels, channels))

    def keys_values(self, tokens: Tensor) -> Given:
        """Return the keys and values (B, L, C) of every layer, which depend on the tokens alone."""
        given = {}
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, CrossBlock)
            given[f"k.{self.name}.{i}"], given[f"v.{self.name}.{i}"] = layer.kv(tokens).chunk(2, dim=-1)
        return given

    def forward(self, x: Tensor, given: Given) -> Tensor:
        tokens = self.first(tokens_of(self.norm(x)))
        for i, layer in enumerate(self.layers):
            tokens = layer(tokens, given[f"k.{self.name}.{i}"], given[f"v.{self.name}.{i}"], given.get("mask"))
        return x + maps_of(self.last(tokens), x)

    def products(self, positions: int) -> int:
        """With the keys and values of tokens, and attention to them, where the length of texts is known."""
        of_tokens = sum(layer.kv.weight.numel() for layer in self.layers)  # type: ignore[operator, union-attr, misc]
        attention = 2 * positions * (positions + self.length) * self.norm.num_channels * len(self.layers)
        return products(self, positions) - (positions - self.length) * int(of_tokens) + attention


class ClassAttention(nn.Module):
    """Channels mixed by a matrix softmax(q kᵀ / √C) of the class alone, added to the maps (gmongaras)."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.groups, channels)
        self.qk = Linear(config.embedding, 2 * channels)
        self.value = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        self.out_norm = nn.GroupNorm(config.groups, channels)
        nn.init.zeros_(self.out_norm.weight)  # It begins as the identity.

    def matrix(self, given: Given) -> Tensor:
        """Return the matrix (B, C, C); each row sums to 1."""
        q, k = self.qk(given["label"]).float().chunk(2, dim=-1)
        return (q[:, :, None] * k[:, None, :] / math.sqrt(q.shape[1])).softmax(dim=-1)

    def forward(self, x: Tensor, given: Given) -> Tensor:
        value_BTC = tokens_of(self.value(self.norm(x)))
        mixed = value_BTC @ self.matrix(given).transpose(1, 2).to(value_BTC.dtype)
        return x + self.out_norm(self.out(maps_of(mixed, x)))

    def products(self, positions: int) -> int:
        channels = self.value.in_channels
        return products(self, positions) - products(self.qk, positions - 1) + positions * channels**2


class ChannelAttention(nn.Module):
    """Channels weighted by a sigmoid of a convolution over their means (Wang et al. 2020, ECA-Net)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        kernel = kernel_of(channels)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor, given: Given) -> Tensor:
        weights = self.conv(x.mean(dim=(2, 3))[:, None])[:, 0].sigmoid()
        return x * weights[..., None, None].to(x.dtype)

    def products(self, positions: int) -> int:
        return 0


def kernel_of(channels: int) -> int:
    """Return ECA's kernel, |(log₂ C + 1) / 2| made odd (Wang et al. 2020, equation 12)."""
    whole = int((math.log2(channels) + 1) / 2)
    return whole if whole % 2 else whole + 1


class Resample(nn.Module):
    """Maps of half or twice the side by one convolution (Rombach et al. 2022)."""

    def __init__(self, channels: int, grow: bool) -> None:
        super().__init__()
        self.grow = grow
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if grow else 2, padding=1)

    def forward(self, x: Tensor, given: Given) -> Tensor:
        return self.conv(doubled(x) if self.grow else x)

    def products(self, positions: int) -> int:
        return products(self, positions)


def halved(x: Tensor) -> Tensor:
    """Return means of 2 x 2."""
    return F.avg_pool2d(x, 2)


def doubled(x: Tensor) -> Tensor:
    """Return every value 2 x 2 times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
