"""Blocks of the deep-compression autoencoder (Chen et al. 2024, DC-AE), and its shortcuts without weights.

Halving the side, the shortcut folds 2 × 2 pixels into channels and averages groups of these; doubling it, channels are
repeated and unfolded. Up after down keeps what it is given, so that layers learn only the difference.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..system.attention import linear_attend
from .norms import ChannelRMSNorm


def average_groups(x: Tensor, channels: int) -> Tensor:
    """Return (B, channels, H, W): the means of as many groups of consecutive channels of x (B, C, H, W)."""
    return x.unflatten(1, (channels, -1)).mean(dim=2)


def repeat_channels(x: Tensor, channels: int) -> Tensor:
    """Return (B, channels, H, W): each channel of x (B, C, H, W) as often as it takes, one after the other."""
    return x.repeat_interleave(channels // x.shape[1], dim=1)


class Downsample(nn.Module):
    """Half the side, (B, C, H, W) to (B, C', H / 2, W / 2)."""

    def __init__(self, in_width: int, out_width: int, resampling: str, shortcut: bool) -> None:
        super().__init__()
        self.out_width, self.folds, self.shortcut = out_width, resampling == "pixels", shortcut
        width, stride = (out_width // 4, 1) if self.folds else (out_width, 2)
        self.conv = nn.Conv2d(in_width, width, 3, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        h = F.pixel_unshuffle(h, 2) if self.folds else h
        return h + average_groups(F.pixel_unshuffle(x, 2), self.out_width) if self.shortcut else h


class Upsample(nn.Module):
    """Twice the side, (B, C, H, W) to (B, C', 2 H, 2 W)."""

    def __init__(self, in_width: int, out_width: int, resampling: str, shortcut: bool) -> None:
        super().__init__()
        self.out_width, self.folds, self.shortcut = out_width, resampling == "pixels", shortcut
        self.conv = nn.Conv2d(in_width, 4 * out_width if self.folds else out_width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.folds:
            h = F.pixel_shuffle(self.conv(x), 2)
        else:
            h = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return h + F.pixel_shuffle(repeat_channels(x, 4 * self.out_width), 2) if self.shortcut else h


class ResBlock(nn.Module):
    """A residual block of two 3×3 convolutions, normalised at its end."""

    def __init__(self, width: int, batch_norm: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.activation: nn.Module = nn.ReLU() if batch_norm else nn.SiLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = _norm(width, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv2(self.activation(self.conv1(x))))


class LinearAttention(nn.Module):
    """Residual linear attention of ReLU over all positions (Cai et al. 2023, EfficientViT).

    Each of `scales` adds heads whose queries, keys and values are aggregated over a neighbourhood of that size.
    """

    def __init__(self, width: int, head_width: int, scales: Sequence[int], batch_norm: bool) -> None:
        super().__init__()
        self.head_width, heads = head_width, width // head_width
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.scales = nn.ModuleList(_Aggregation(3 * width, size, 3 * heads) for size in scales)
        self.out = nn.Conv2d(width * (1 + len(scales)), width, 1, bias=False)
        self.norm_out = _norm(width, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)
        qkv = torch.cat([qkv, *(scale(qkv) for scale in self.scales)], dim=1)
        # (B, 3C, H, W) → (B, heads, 3D, N), each head's queries, keys and values one after the other.
        q, k, v = qkv.unflatten(1, (-1, 3 * self.head_width)).flatten(3).chunk(3, dim=2)
        h = linear_attend(q.relu(), k.relu(), v).to(x.dtype)
        return x + self.norm_out(self.out(h.flatten(1, 2).unflatten(2, x.shape[-2:])))


class GatedConvolution(nn.Module):
    """A residual inverted bottleneck: wide 1×1, depthwise 3×3, a gate, and 1×1 (Xie et al. 2024, Mix-FFN)."""

    def __init__(self, width: int, expansion: int = 4) -> None:
        super().__init__()
        hidden = 2 * expansion * width
        self.conv_inverted = nn.Conv2d(width, hidden, 1)
        self.conv_depth = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.conv_point = nn.Conv2d(hidden // 2, width, 1, bias=False)
        self.norm = ChannelRMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        h, gate = self.conv_depth(F.silu(self.conv_inverted(x))).chunk(2, dim=1)
        return x + self.norm(self.conv_point(h * F.silu(gate)))


class AttentionBlock(nn.Module):
    """Linear attention, then a gated convolution."""

    def __init__(self, width: int, head_width: int, scales: Sequence[int], batch_norm: bool = False) -> None:
        super().__init__()
        self.attn = LinearAttention(width, head_width, scales, batch_norm)
        self.conv_out = GatedConvolution(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.attn(x))


class _Aggregation(nn.Module):
    """A depthwise convolution, and a 1×1 one within groups."""

    def __init__(self, width: int, size: int, groups: int) -> None:
        super().__init__()
        self.proj_in = nn.Conv2d(width, width, size, padding=size // 2, groups=width, bias=False)
        self.proj_out = nn.Conv2d(width, width, 1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_out(self.proj_in(x))


def _norm(width: int, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(width) if batch_norm else ChannelRMSNorm(width)
