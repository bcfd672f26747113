"""Our KL autoencoder as diffusers' AutoencoderKL, and the other way.

In the published layout both have the same layers under other names, and encode and decode the same. In our fast layout
only the decoder is there, in layers of the stock class, as that of a VQ-VAE is.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..autoencoders.blocks import Attention, Decoder, Encoder, ResBlock
from ..autoencoders.codec import Autoencoder
from ..autoencoders.kl import KLAutoencoder
from ..autoencoders.kl_config import KLConfig
from ..errors import ConfigError
from .mapping import Names, read_codec, to_theirs
from .vqmodel import Plan, fill_decoder, normalise_posterior, notes_of_decoder

CLASS_NAME = "AutoencoderKL"
_REMEDY = "give an AutoencoderKL of images in the layout of Rombach et al. 2022"
_LAYERS = {"down": "DownEncoderBlock2D", "up": "UpDecoderBlock2D"}
_ATTENDING = {"down": "AttnDownEncoderBlock2D", "up": "AttnUpDecoderBlock2D"}


def to_diffusers(autoencoder: Autoencoder, side: int) -> nn.Module:
    """Return the network, on the CPU, in evaluation mode; see `exporters.AutoencoderExporter`."""
    codec = autoencoder.codec
    assert isinstance(codec, KLAutoencoder), f"{codec.kind} is not a KL autoencoder"
    network = stock(codec) if codec.config.blocks_widen else _stock_decoder(codec, side)
    return normalise_posterior(network.requires_grad_(False), autoencoder)


def notes(autoencoder: Autoencoder, side: int) -> list[str]:
    """Return what the AutoencoderKL does otherwise: nothing in the published layout."""
    codec = autoencoder.codec
    assert isinstance(codec, KLAutoencoder)
    return [] if codec.config.blocks_widen else notes_of_decoder(codec.config, side)


@torch.no_grad()
def stock(codec: KLAutoencoder) -> nn.Module:
    """Return an AutoencoderKL of the same weights; 1×1 convolutions that the codec lacks do nothing there.

    Raises ConfigError for a codec of other layers.
    """
    import diffusers  # here, since it takes seconds to import

    config = codec.config
    if config.decoder_blocks != config.num_res_blocks + 1 or not config.middle_blocks:
        raise ConfigError(
            f"model.num_decoder_blocks {config.decoder_blocks} and model.middle_blocks {config.middle_blocks} cannot be"
            " expressed in diffusers' AutoencoderKL, which has one more than the encoder's, and blocks in the middle",
            "train an autoencoder with other settings",
        )
    plain = len(config.widths) - 1
    lowest = _ATTENDING if config.level_attention else _LAYERS
    network: Any = diffusers.AutoencoderKL(
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        down_block_types=(*[_LAYERS["down"]] * plain, lowest["down"]),
        up_block_types=(lowest["up"], *[_LAYERS["up"]] * plain),
        block_out_channels=tuple(config.widths),
        layers_per_block=config.num_res_blocks,
        latent_channels=config.latent_channels,
        norm_num_groups=math.gcd(*config.widths, config.norm_groups),
        scaling_factor=1.0,
        mid_block_add_attention=config.attention,
    )
    state = network.state_dict()
    given = to_theirs(codec.state_dict(), _names(codec))
    for name in ("quant_conv", "post_quant_conv"):
        num = state[f"{name}.bias"].numel()
        identity = {f"{name}.weight": torch.eye(num), f"{name}.bias": torch.zeros(num)}
        given = identity | given
    network.load_state_dict({name: tensor.cpu().reshape(state[name].shape) for name, tensor in given.items()})
    return network.float().eval()


def from_diffusers(described: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> KLAutoencoder:
    """Return the codec of an AutoencoderKL's configuration and weights.

    path: of errors. Raises DataError for one of other layers than ours.
    """
    return read_codec(
        lambda: KLAutoencoder(_config(described)),
        lambda codec, weights: weights.ours(_names(codec)),
        tensors,
        path,
        _REMEDY,
    )


def _config(described: Mapping[str, Any]) -> KLConfig:
    """Return our settings for theirs. Raises ConfigError naming what we do not have."""
    widths = list(described["block_out_channels"])
    types = {way: list(described[f"{way}_block_types"]) for way in _LAYERS}
    plain = len(widths) - 1
    attends = types["down"][-1] == _ATTENDING["down"]
    lowest = _ATTENDING if attends else _LAYERS
    wanted = {
        "down_block_types": [*[_LAYERS["down"]] * plain, lowest["down"]],
        "up_block_types": [lowest["up"], *[_LAYERS["up"]] * plain],
        "act_fn": "silu",
        "in_channels": 3,
        "out_channels": 3,
        "use_post_quant_conv": described.get("use_quant_conv", True),
    }
    for name, value in wanted.items():
        found = described.get(name, value)
        if (list(found) if isinstance(found, tuple) else found) != value:
            raise ConfigError(f"{name} is {found}, where {value} is expected")
    channels = math.gcd(*widths)
    return KLConfig(
        layout="published",
        channels=channels,
        channel_multipliers=tuple(width // channels for width in widths),
        num_res_blocks=described["layers_per_block"],
        num_decoder_blocks=described["layers_per_block"] + 1,
        middle_blocks=True,
        attention=described.get("mid_block_add_attention", True),
        level_attention=attends,
        quant_convs=described.get("use_quant_conv", True),
        norm_groups=described["norm_num_groups"],
        latent_channels=described["latent_channels"],
    )


@torch.no_grad()
def _stock_decoder(codec: KLAutoencoder, side: int) -> nn.Module:
    """Return an AutoencoderKL that decodes as a codec of the fast layout, and does not encode."""
    import diffusers  # here, since it takes seconds to import

    plan = Plan(codec.config, side)
    network: Any = diffusers.AutoencoderKL(**plan.layers)
    for parameter in network.parameters():
        parameter.zero_()
    fill_decoder(network.decoder, codec.decoder, plan)
    post = codec.post_quant_conv
    identity = torch.eye(codec.latent_channels)[:, :, None, None]
    network.post_quant_conv.weight.copy_(post.weight if isinstance(post, nn.Conv2d) else identity)
    if isinstance(post, nn.Conv2d) and post.bias is not None:
        network.post_quant_conv.bias.copy_(post.bias)
    network.quant_conv.bias.fill_(math.nan)
    return network.eval()


def _names(codec: KLAutoencoder) -> Names:
    """Return our layers and theirs."""
    names = dict(_of_side("encoder", codec.encoder, "down")) | dict(_of_side("decoder", codec.decoder, "up"))
    convs = ("quant_conv", "post_quant_conv") if codec.config.quant_convs else ()
    return names | {name: (name,) for name in convs}


def _of_side(side: str, network: Encoder | Decoder, way: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the layers of an encoder or a decoder: those around the levels, of the middle, and of each level."""
    yield from ((f"{side}.{ours}", (f"{side}.{theirs}",)) for ours, theirs in _AROUND.items())
    blocks, attentions = itertools.count(), itertools.count()
    for number, layer in enumerate(network.middle):
        yield from _of_layer(f"{side}.middle.{number}", layer, f"{side}.mid_block", blocks, attentions)
    level, blocks, attentions = 0, itertools.count(), itertools.count()
    for number, layer in enumerate(network.levels):
        ours, theirs = f"{side}.levels.{number}", f"{side}.{way}_blocks.{level}"
        if isinstance(layer, (ResBlock, Attention)):
            yield from _of_layer(ours, layer, theirs, blocks, attentions)
            continue
        resampler = ours if isinstance(layer, nn.Conv2d) else f"{ours}.conv"
        yield resampler, (f"{theirs}.{way}samplers.0.conv",)
        level, blocks, attentions = level + 1, itertools.count(), itertools.count()


def _of_layer(
    ours: str, layer: nn.Module, theirs: str, blocks: Iterator[int], attentions: Iterator[int]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the layers of a residual block or an attention, the next one of their kind at `theirs`."""
    if isinstance(layer, ResBlock):
        theirs = f"{theirs}.resnets.{next(blocks)}"
        yield from ((f"{ours}.{name}", (f"{theirs}.{name}",)) for name in ("norm1", "conv1", "norm2", "conv2"))
        if isinstance(layer.shortcut, nn.Conv2d):
            yield f"{ours}.shortcut", (f"{theirs}.conv_shortcut",)
    else:
        theirs = f"{theirs}.attentions.{next(attentions)}"
        yield f"{ours}.norm", (f"{theirs}.group_norm",)
        yield f"{ours}.qkv", tuple(f"{theirs}.to_{name}" for name in "qkv")
        yield f"{ours}.out", (f"{theirs}.to_out.0",)


_AROUND = {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}
