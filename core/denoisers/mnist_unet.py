"""The small U-Net of digits of a course (CS180, UC Berkeley, project 5B), conditioned on time and class.

Every convolution is followed by BatchNorm and GELU. Time and class modulate the maps in two places: what the vector of
the whole image is unfolded to, and the first maps on the way up.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..conditioning.labels import one_hot
from ..diffusion.conditions import Cond
from .mnist_unet_config import MnistUNetConfig
from .network import DenoiserNetwork, channels_last


class Conv(nn.Module):
    """A convolution, or a transposed one, then BatchNorm and GELU."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.conv(x)))


class Unfold(nn.ConvTranspose2d):
    """A vector (B, C, 1, 1) to maps (B, C, h, w), by one matrix product: what a transposed convolution is there."""

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        channels, height, width = self.weight.shape[1:]
        assert self.bias is not None
        bias = self.bias.repeat_interleave(height * width)
        maps = F.linear(x.flatten(1), self.weight.flatten(1).T, bias).view(-1, channels, height, width)
        return maps.contiguous(memory_format=torch.channels_last)


def stage(in_channels: int, out_channels: int, side: str) -> nn.Sequential:
    """Return two convolutions, or with side "half" or "double" one that changes the maps' side and then two."""
    first: list[nn.Module] = []
    if side == "half":
        first = [Conv(nn.Conv2d(in_channels, out_channels, 3, 2, 1))]
    elif side == "double":
        first = [Conv(nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1))]
    start = out_channels if first else in_channels
    rest = [Conv(nn.Conv2d(channels, out_channels, 3, 1, 1)) for channels in (start, out_channels)]
    return nn.Sequential(*first, *rest)


class Modulator(nn.Module):
    """A vector to a factor or shift of maps (B, D, 1, 1): two linear maps with a GELU between them."""

    def __init__(self, num_inputs: int, channels: int) -> None:
        super().__init__()
        self.up = nn.Linear(num_inputs, channels)
        self.down = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))[..., None, None]


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Compute without updating the statistics of BatchNorm."""
    norms = [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]
    usual = [(norm, norm.momentum, int(norm.num_batches_tracked)) for norm in norms]  # type: ignore[arg-type]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in usual:
            norm.momentum = momentum
            norm.num_batches_tracked.fill_(count)  # type: ignore[union-attr]


class MnistUNet(DenoiserNetwork):
    """Maps of the full side, of half and of a quarter; modulated as class · maps + time; without classes time · maps.

    A class is one-hot, and no class the zero vector. Hidden states are the maps (B, C, h, w) after each stage. While
    training, BatchNorm lets a sample's output depend on its batch.
    """

    fields: ClassVar[tuple[str, ...]] = ("labels",)
    uniform: ClassVar[bool] = False
    config: MnistUNetConfig

    def __init__(self, config: MnistUNetConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        # Down: full side, half, a quarter. Up: half, full side, and the joined maps to one output.
        self.blocks = nn.ModuleList(
            [
                stage(config.latent_channels, width, "same"),
                stage(width, width, "half"),
                stage(width, 2 * width, "half"),
                stage(4 * width, width, "double"),
                stage(2 * width, width, "double"),
                stage(2 * width, width, "same"),
            ]
        )
        self.unfold = Conv(Unfold(2 * width, 2 * width, config.smallest, config.smallest))
        self.out = nn.Conv2d(width, config.out_channels, 3, padding=1)

        # Modulated: the unfolded maps, of 2D channels, and the first on the way up, of D.
        modulated = (2 * width, width)
        self.times = nn.ModuleList(Modulator(1, channels) for channels in modulated if config.timed)
        num = config.num_classes
        self.classes = nn.ModuleList(Modulator(num, channels) for channels in modulated if num)
        self.class_axes = {f"classes.{i}.up.weight": 1 for i in range(len(self.classes))}
        channels_last(self)

    @property
    def training_flops(self) -> float:
        """6 operations per weight of a convolution and position: of its output, or of a transposed one's input."""
        height, width = self.config.size
        total = self.unfold.conv.weight.numel() / (height * width)
        for block, divisor in zip((*self.blocks, self.out), (1, 2, 4, 2, 1, 1, 1), strict=True):
            for conv in block.modules():
                if isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)):
                    shrunk = 2 * divisor if isinstance(conv, nn.ConvTranspose2d) else divisor
                    total += conv.weight.numel() / shrunk**2
        return 6.0 * total * height * width

    def prepare(self, cond: Cond) -> Cond:
        if not self.config.num_classes:
            return {}
        factors = [module(one_hot(cond["labels"], self.config.num_classes)) for module in self.classes]
        return {"factor_0": factors[0], "factor_1": factors[1]}

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond, taps: tuple[int, ...] = ()) -> Any:
        factors = cond if "factor_0" in cond else self.prepare(cond)
        times = [module(t[:, None].float() * self.config.time_scale) for module in self.times]

        def modulated(maps: Tensor, place: int) -> Tensor:
            if factors:
                return factors[f"factor_{place}"] * maps + times[place]
            return maps * times[place] if times else maps

        hidden: dict[int, Tensor] = {}

        def run(i: int, maps: Tensor) -> Tensor:
            if self.checkpointing and torch.is_grad_enabled():
                block = self.blocks[i]
                maps = checkpoint(
                    block,
                    maps,
                    use_reentrant=False,
                    preserve_rng_state=False,
                    context_fn=lambda: (nullcontext(), _statistics_kept(block)),
                )
            else:
                maps = self.blocks[i](maps)
            hidden[i] = maps
            return maps

        # Down to a vector of the whole image, and back to a quarter of the side.
        full = run(0, x_t.contiguous(memory_format=torch.channels_last))
        half = run(1, full)
        quarter = run(2, half)
        vector = F.gelu(F.avg_pool2d(quarter, self.config.smallest))
        unfolded = modulated(self.unfold(vector), 0)

        # Up, with the maps of the same side joined.
        maps = modulated(run(3, torch.cat([unfolded, quarter], 1)), 1)
        maps = run(4, torch.cat([maps, half], 1))
        maps = run(5, torch.cat([maps, full], 1))
        out = self.out(maps).to(x_t.dtype).contiguous()
        return (out, {i: hidden[i] for i in taps}) if taps else out
