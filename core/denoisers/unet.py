"""U-Nets of Dhariwal & Nichol 2021 (ADM) and Rombach et al. 2022 (latent diffusion), and of strings of other blocks."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..conditioning.labels import LABELS, LabelEmbedding
from ..conditioning.text import IDS, MASK, TOKENS
from ..diffusion.conditions import Cond
from . import unet_blocks
from .layers import ScalarEmbeddings, TimestepEmbedding, zeroed
from .network import DenoiserNetwork
from .text import TEXT_FIELDS, TextInput
from .unet_blocks import Given
from .unet_config import Part, UNetConfig


class Unit(nn.Module):
    """Blocks one after the other, the first of which may change the number of channels."""

    def __init__(self, config: UNetConfig, part: Part, name: str) -> None:
        super().__init__()
        inputs, blocks = part.inputs, list[nn.Module]()
        for i, kind in enumerate(part.blocks):
            blocks.append(block_of(kind, config, inputs, part.channels, f"{name}.{i}"))
            inputs = part.channels
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, given: Given) -> Tensor:
        for block in self.blocks:
            x = block(x, given)
        return x

    def products(self, positions: int) -> int:
        return sum(block.products(positions) for block in self.blocks)  # type: ignore[operator]


def block_of(kind: str, config: UNetConfig, inputs: int, channels: int, name: str) -> nn.Module:
    """Return a block by its name in the config."""
    if kind == "res":
        return unet_blocks.ResBlock(config, inputs, channels)
    if kind == "conv":
        return unet_blocks.ConvNeXt(config, inputs, channels)
    if kind == "attn":
        return unet_blocks.SelfAttention(config, channels)
    if kind == "cross":
        return unet_blocks.CrossAttention(config, channels, name)
    if kind == "class-attn":
        return unet_blocks.ClassAttention(config, channels)
    assert kind == "channel-attn", kind
    return unet_blocks.ChannelAttention(channels)


def part_of(config: UNetConfig, part: Part, name: str) -> nn.Module:
    """Return the module of a part: a string of blocks, or what changes the side."""
    if part.kind == "unit":
        return Unit(config, part, name)
    grow = part.kind == "grow"
    if config.resample == "conv":
        return unet_blocks.Resample(part.channels, grow)
    resample = unet_blocks.doubled if grow else unet_blocks.halved
    return unet_blocks.ResBlock(config, part.inputs, part.channels, resample)


class UNet(DenoiserNetwork):
    """Maps down to the smallest side and up again, joined with those of the same side. Hidden states are maps.

    Labels are embedded and added to the time; `cross` blocks attend to the tokens of a text, and not to its one vector.
    """

    fields: ClassVar[tuple[str, ...]] = (LABELS, *TEXT_FIELDS)
    takes_scalars: ClassVar[bool] = True
    uniform: ClassVar[bool] = False
    config: UNetConfig

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config, self.parts = config, config.parts()
        start, end, padding = self.parts[0].inputs, self.parts[-1].channels, config.edge // 2
        self.first = nn.Conv2d(config.latent_channels, start, config.edge, padding=padding)
        self.time = TimestepEmbedding(config.embedding, config.channels, config.time_scale, shift=0)
        num = config.num_classes
        self.label = LabelEmbedding(num, config.has_null, config.embedding) if num else None
        self.scalars = ScalarEmbeddings(config.scalars, config.embedding)
        self.text = TextInput(config) if config.takes_text else None
        self.blocks = nn.ModuleList(part_of(config, part, str(i)) for i, part in enumerate(self.parts))
        self.norm = nn.GroupNorm(config.groups, end)
        self.last = zeroed(nn.Conv2d(end, config.out_channels, config.edge, padding=padding))

    @property
    def training_flops(self) -> float:
        """6 operations per weight and position, and those of attention."""
        positions = self.config.size[0] * self.config.size[1]
        total = unet_blocks.products(nn.ModuleList([self.first, self.last]), positions)
        total += 0 if self.text is None else self.text.products()
        for part, block in zip(self.parts, self.blocks, strict=True):
            total += block.products(positions // 4**part.level)  # type: ignore[operator]
        return 6.0 * total

    def prepare(self, cond: Cond) -> Cond:
        given = {} if self.label is None else {"label": self.label(cond[LABELS])}
        if vectors := self.scalars.vectors(cond):
            given["scalars"] = torch.stack(vectors).sum(0)
        if self.text is not None:
            tokens, mask, _ = self.text(cond)
            for module in self.modules():
                if isinstance(module, unet_blocks.CrossAttention):
                    given |= module.keys_values(tokens)
            if MASK in cond:
                given[MASK] = mask
        return given

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond, taps: tuple[int, ...] = ()) -> Any:
        plain = {LABELS, IDS, TOKENS, *self.scalars} & cond.keys()
        given = self._vectors(t, self.prepare(cond) if plain else cond)
        # Channels last is the layout of a GPU's convolutions; on a CPU group norm is ten times as slow on it.
        layout = torch.channels_last if x_t.device.type == "cuda" else torch.contiguous_format
        maps = self.first(x_t.contiguous(memory_format=layout))
        kept, hidden = [maps], {}
        for i, (part, block) in enumerate(zip(self.parts, self.blocks, strict=True)):
            # On the way up, maps of the way down are joined, the last ones first.
            if part.skip:
                maps = torch.cat([maps, kept.pop()], dim=1)
            if self.checkpointing and torch.is_grad_enabled():
                maps = checkpoint(block, maps, given, use_reentrant=False, preserve_rng_state=False)
            else:
                maps = block(maps, given)
            if part.where == "down":
                kept.append(maps)
            if i in taps:
                hidden[i] = maps
        out = self.last(F.silu(self.norm(maps))).to(x_t.dtype).contiguous()
        return (out, hidden) if taps else out

    def _vectors(self, t: Tensor, prepared: Cond) -> Given:
        """Return what the blocks are given: vectors of time and class, keys and values of tokens."""
        time, label = self.time(t), prepared.get("label")
        time = time + prepared["scalars"] if "scalars" in prepared else time
        if self.config.modulation == "split":
            assert label is not None
            return {**prepared, "time": F.silu(time), "label": F.silu(label)}
        both = F.silu(time if label is None else time + label)
        return {**prepared, "both": both, **({} if label is None else {"label": F.silu(label)})}
