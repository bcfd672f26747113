"""Our VQ-VAE as diffusers' VQModel: the codebook in the normalised latent space, and our decoder in its layers.

Decoding is the same function up to rounding. Encoding is not there: the stock encoder pads on other sides where it
halves the resolution. It gives NaN, so that nobody takes its output for latents.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..autoencoders.blocks import Attention, Decoder, ResBlock, Upsample
from ..autoencoders.codec import Autoencoder
from ..autoencoders.parts_config import LevelsConfig
from ..autoencoders.vq import VQVAE
from ..errors import ConfigError
from .subpixels import Pairs, Ramps, Terms, carry_images, double_coordinates, double_images, gate_images

_LEAST_GROUP = 4  # a pair and two constants


@dataclass(frozen=True)
class Plan:
    """How the stock decoder's channels and blocks are shared out. Raises ConfigError where our decoder does not fit.

    Every level has the same number of groups, those of our normalisations first; where there are patches, groups that
    carry the images to be interleaved and groups of ramps follow. side: of the latents.
    """

    config: LevelsConfig
    side: int

    def __post_init__(self) -> None:
        widths = self.widths
        if any(below < above for below, above in itertools.pairwise(widths)):
            raise _inexpressible("channel_multipliers", list(self.config.channel_multipliers), "levels that narrow")
        if len({math.gcd(width, self.config.norm_groups) for width in widths}) > 1:
            raise _inexpressible("norm_groups", self.config.norm_groups, f"as many groups at each width of {widths}")
        if self.doublings and widths[-1] // self.own_groups < _LEAST_GROUP:
            needed = f"{_LEAST_GROUP} channels for each of its norm_groups at the finest level, with a patch"
            raise _inexpressible("channels", self.config.channels, needed)

    @property
    def widths(self) -> list[int]:
        """Our widths, the lowest level first."""
        return self.config.widths[::-1]

    @property
    def own_groups(self) -> int:
        return math.gcd(self.widths[0], self.config.norm_groups)

    @property
    def doublings(self) -> int:
        """Levels above ours, at which patches are undone."""
        return int(math.log2(self.config.patch))

    @property
    def num_images(self) -> int:
        return self.config.in_channels * self.config.patch**2

    @property
    def pairs(self) -> Pairs:
        """Of the images, at the last of our levels."""
        return Pairs(self.own_groups, self.widths[-1] // self.own_groups, self.num_images)

    @property
    def ramp_group(self) -> int:
        """The first group of ramps."""
        return self.own_groups + self.pairs.num_groups

    @property
    def groups(self) -> int:
        if not self.doublings:
            return self.own_groups
        return self.ramp_group + Ramps.groups_needed(self.widths[0] // self.own_groups)

    @property
    def group_sizes(self) -> list[int]:
        """Channels per group, the lowest level first."""
        ours = [width // self.own_groups for width in self.widths]
        if not self.doublings:
            return ours
        sizes = range(_LEAST_GROUP, ours[-1] + 1)
        above = next(size for size in sizes if Pairs(0, size, self.num_images).num_groups <= self.groups)
        return ours + [above] * self.doublings

    @property
    def block_widths(self) -> list[int]:
        """Channels, the lowest level first."""
        return [size * self.groups for size in self.group_sizes]

    @property
    def layers(self) -> dict[str, Any]:
        """What the stock classes take for these levels."""
        config, widths = self.config, tuple(reversed(self.block_widths))
        return {
            "in_channels": config.in_channels,
            "out_channels": config.in_channels,
            "down_block_types": ("DownEncoderBlock2D",) * len(widths),
            "up_block_types": ("UpDecoderBlock2D",) * len(widths),
            "block_out_channels": widths,
            "layers_per_block": self.blocks - 1,
            "latent_channels": config.latent_channels,
            "sample_size": self.side * config.downsampling,
            "norm_num_groups": self.groups,
            "scaling_factor": 1.0,
            "mid_block_add_attention": config.attention,
        }

    @property
    def blocks(self) -> int:
        """Residual blocks per level: ours, one that narrows, one that makes the images, or what the ramps need."""
        widths, ours = self.block_widths, self.config.decoder_blocks
        needed = [ours + (level > 0 and widths[level] != widths[level - 1]) for level in range(len(self.widths))]
        needed[-1] += self.doublings > 0
        ramps = Ramps.blocks_needed(self.side) - 2 if self.doublings else 0
        return max(*needed, ramps, 1)


def to_diffusers(autoencoder: Autoencoder, side: int) -> nn.Module:
    """Return a diffusers VQModel that decodes normalised latents (B, C, side, side) as the autoencoder does.

    With patches it serves that size of latents only. Raises ConfigError naming the setting that it cannot express.
    """
    import diffusers  # here, since it takes seconds to import

    codec = autoencoder.codec
    assert isinstance(codec, VQVAE), f"{codec.kind} is no VQ-VAE"
    plan = Plan(codec.config, side)
    model: Any = diffusers.VQModel(**plan.layers, num_vq_embeddings=codec.config.codebook_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        _fill_codebook(model, autoencoder, codec)
        fill_decoder(model.decoder, codec.decoder, plan)
    network: nn.Module = model.eval()
    return network


def notes(autoencoder: Autoencoder, side: int) -> list[str]:
    """Return what the VQModel does otherwise than the autoencoder."""
    codec = autoencoder.codec
    assert isinstance(codec, VQVAE)
    return notes_of_decoder(codec.config, side)


def notes_of_decoder(config: LevelsConfig, side: int) -> list[str]:
    """Return what the stock class of a decoder that was fitted into it does otherwise."""
    found = ["The autoencoder decodes only; `encode` gives NaN."]
    if config.patch > 1:
        found.append(
            f"The autoencoder serves latents of {side} × {side} only, and float32 only (TF32 included): it counts where"
            " each pixel belongs, and half precision miscounts."
        )
    return found


def even_deviation(autoencoder: Autoencoder) -> float:
    """Return the one number that all latent channels are divided by. Raises ConfigError where they differ.

    Only then is the nearest code the same in normalised latents as in raw ones.
    """
    std = autoencoder.latent_std
    if float(std.max() - std.min()) > 1e-5 * float(std.max()):
        raise ConfigError(
            f"the latent channels deviate by {float(std.min()):.4g} to {float(std.max()):.4g}: divided by these, other"
            " codes are nearest, and diffusers looks codes up in divided latents",
            "make the autoencoder and what follows again with this ldm, which evens them",
        )
    return float(std[0])


def normalise_between(quant: nn.Conv2d, post: nn.Conv2d, autoencoder: Autoencoder) -> None:
    """Fold z = s n + m into the 1×1 convolutions before and after the latents: between them is n."""
    mean, std = autoencoder.latent_mean.cpu(), autoencoder.latent_std.cpu()
    assert quant.bias is not None and post.bias is not None, "convolutions have a bias"
    quant.weight[: len(std)] /= std[:, None, None, None]
    quant.bias[: len(std)] = (quant.bias[: len(std)] - mean) / std
    post.bias.add_(post.weight[:, :, 0, 0] @ mean)
    post.weight.mul_(std[None, :, None, None])


@torch.no_grad()
def normalise_posterior(network: Any, autoencoder: Autoencoder) -> nn.Module:
    """Fold the statistics of the latents into an AutoencoderKL's 1×1 convolutions. Returns the network."""
    normalise_between(network.quant_conv, network.post_quant_conv, autoencoder)
    network.quant_conv.bias[autoencoder.latent_channels :] -= 2 * autoencoder.latent_std.cpu().log()
    folded: nn.Module = network
    return folded


def normalise_codes(network: Any, autoencoder: Autoencoder) -> None:
    """Move a VQModel's codebook, and its convolutions, into the normalised space, where the nearest code is the same.

    Raises ConfigError for uneven deviations.
    """
    codes, mean = network.quantize.embedding.weight, autoencoder.latent_mean.cpu()
    codes.copy_((codes - mean) / even_deviation(autoencoder))
    normalise_between(network.quant_conv, network.post_quant_conv, autoencoder)


def _fill_codebook(model: Any, autoencoder: Autoencoder, codec: VQVAE) -> None:
    """Put the codes there. Unit codes need no unit latents."""
    model.quantize.embedding.weight.copy_(codec.quantizer.project(codec.quantizer.codes, dim=1))
    model.post_quant_conv.weight.copy_(torch.eye(codec.latent_channels)[:, :, None, None])
    normalise_codes(model, autoencoder)
    model.quant_conv.bias.fill_(math.nan)


def fill_decoder(theirs: Any, ours: Decoder, plan: Plan) -> None:
    """Put our layers in the first channels and groups of theirs, and what interleaves the images beside them."""
    _corner(theirs.conv_in, ours.conv_in)
    _fill_middle(theirs.mid_block, ours, plan)
    ramps = Ramps(plan.ramp_group, plan.group_sizes[0], plan.side) if plan.doublings else None
    if ramps is not None:
        ramps.start(theirs.conv_in)
        for block in (*theirs.mid_block.resnets, *theirs.up_blocks[0].resnets):
            ramps.advance(block)
    coordinates: list[Terms] = [ramps.coordinate(axis) for axis in (0, 1)] if ramps is not None else []
    layers = iter(ours.levels)
    for level in range(len(plan.widths)):
        blocks = theirs.up_blocks[level].resnets
        narrowing = _narrow(blocks[0])
        for number in range(plan.config.decoder_blocks):
            _fill_block(blocks[number + narrowing], next(layers))
        if level < len(plan.widths) - 1:
            upsample, conv = next(layers), theirs.up_blocks[level].upsamplers[0].conv
            assert isinstance(upsample, Upsample), "blocks, then a resampler"
            _corner(conv, upsample.conv)
            if ramps is not None:
                after = [plan.ramp_group * plan.group_sizes[level + 1] + axis for axis in (0, 1)]
                double_coordinates(conv, coordinates, after)
                coordinates = [[(channel, 1.0)] for channel in after]
    if ramps is None:
        _corner(theirs.conv_norm_out, ours.norm_out)
        _corner(theirs.conv_out, ours.conv_out)
    else:
        _interleave(theirs, ours, plan, coordinates)


def _interleave(theirs: Any, ours: Decoder, plan: Plan, coordinates: list[Terms]) -> None:
    """Make the images with the last block of our last level, and their pixels one image in the levels above."""
    last = len(plan.widths) - 1
    carry_images(theirs.up_blocks[last].resnets[-1], ours.norm_out, ours.conv_out, plan.pairs)
    images, bits = [plan.pairs.plus(number) for number in range(plan.num_images)], list[int]()
    for level in range(last + 1, last + 1 + plan.doublings):
        conv = theirs.up_blocks[level - 1].upsamplers[0].conv
        _narrow(theirs.up_blocks[level].resnets[0])
        if level < last + plan.doublings:
            images, coordinates, bits = double_images(conv, images, coordinates, bits)
        else:
            pairs = Pairs(0, plan.group_sizes[-1], plan.num_images)
            norm_out, conv_out = theirs.conv_norm_out, theirs.conv_out
            gate_images(conv, norm_out, conv_out, images, coordinates, bits, plan.config.patch, pairs)


def _fill_middle(theirs: Any, ours: Decoder, plan: Plan) -> None:
    for block, mine in zip(theirs.resnets, [each for each in ours.middle if isinstance(each, ResBlock)], strict=False):
        _fill_block(block, mine)
    for attention in (each for each in ours.middle if isinstance(each, Attention)):
        width, target = plan.widths[0], theirs.attentions[0]
        # Scores are divided by the root of the width, which is theirs now.
        scales = (math.sqrt(plan.block_widths[0] / width), 1.0, 1.0)
        _corner(target.group_norm, attention.norm)
        for name, rows, scale in zip("qkv", range(0, 3 * width, width), scales, strict=True):
            linear = getattr(target, f"to_{name}")
            linear.weight[:width, :width] = attention.qkv.weight[rows : rows + width, :, 0, 0] * scale
            linear.bias[:width] = _bias(attention.qkv)[rows : rows + width] * scale
        target.to_out[0].weight[:width, :width] = attention.out.weight[:, :, 0, 0]
        target.to_out[0].bias[:width] = _bias(attention.out)


def _narrow(block: Any) -> bool:
    """Let a block that changes the width keep the first channels. Returns whether it is one."""
    if block.conv_shortcut is None:
        return False
    kept = len(block.conv_shortcut.bias)
    block.conv_shortcut.weight[:, :kept, 0, 0] = torch.eye(kept)
    return True


def _fill_block(theirs: Any, ours: nn.Module) -> None:
    for name in ("norm1", "conv1", "norm2", "conv2"):
        _corner(getattr(theirs, name), getattr(ours, name))


def _corner(theirs: Any, ours: nn.Module) -> None:
    """Copy a layer's weights into the first channels of a larger one's."""
    for mine, target in zip(ours.parameters(), theirs.parameters(), strict=True):
        target[tuple(slice(size) for size in mine.shape)] = mine


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None, "convolutions have a bias"
    return conv.bias


def _inexpressible(name: str, value: object, needed: str) -> ConfigError:
    return ConfigError(
        f"model.{name} {value} of the autoencoder cannot be expressed in diffusers' VQModel, which needs {needed}",
        "train an autoencoder with another setting",
    )
