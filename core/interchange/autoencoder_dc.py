"""Our deep-compression autoencoder as diffusers' AutoencoderDC, and the other way: the same layers."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..autoencoders.codec import Autoencoder
from ..autoencoders.dc import DCAutoencoder
from ..autoencoders.dc_config import DCConfig
from ..errors import ConfigError
from .diffusers_vae import require_even
from .mapping import Weights, read_codec

CLASS_NAME = "AutoencoderDC"
_REMEDY = "give an AutoencoderDC of images in the layout of Chen et al. 2024"
_BLOCKS = ("ResBlock", "EfficientViTBlock")
_RESAMPLING = {"pixels": ("pixel_unshuffle", "pixel_shuffle"), "convolution": ("conv", "interpolate")}
_QKV = re.compile(r"(.*\.attn)\.qkv\.weight")
_RENAMED = (("attn.out.", "attn.to_out."), ("attn.scales.", "attn.to_qkv_multiscale."))


def to_diffusers(autoencoder: Autoencoder, side: int) -> nn.Module:
    """Return the network, on the CPU, in evaluation mode; see `exporters.AutoencoderExporter`.

    Raises ConfigError where latents are normalised channel by channel: the shortcuts have no weights to fold that into.
    """
    codec = autoencoder.codec
    assert isinstance(codec, DCAutoencoder), f"{codec.kind} is not a deep-compression autoencoder"
    return stock(codec, 1 / require_even(autoencoder, CLASS_NAME))


def notes(autoencoder: Autoencoder, side: int) -> list[str]:
    """Return nothing: it encodes and decodes as it did."""
    return []


def stock(codec: DCAutoencoder, scaling_factor: float = 1.0) -> nn.Module:
    """Return an AutoencoderDC of the same weights. Raises ConfigError for a codec without shortcuts."""
    import diffusers  # here, since it takes seconds to import

    config = codec.config
    if not config.shortcuts:
        raise ConfigError(f"model.shortcuts is off, which diffusers' {CLASS_NAME} has not", "train with shortcuts")
    down, up = _RESAMPLING[config.resampling]
    network: Any = diffusers.AutoencoderDC(
        **_levels(config), downsample_block_type=down, upsample_block_type=up, scaling_factor=scaling_factor
    )
    own = {name: tensor.cpu() for name, tensor in codec.state_dict().items()}
    given: dict[str, Tensor] = {}
    for name, tensor in own.items():
        if (found := _QKV.fullmatch(name)) is not None:
            for letter, rows in zip("qkv", tensor.chunk(3), strict=True):
                given[f"{found[1]}.to_{letter}.weight"] = rows
        else:
            given[_their_name(name)] = tensor
    state = network.state_dict()
    network.load_state_dict({name: tensor.reshape(state[name].shape) for name, tensor in given.items()})
    return network.float().eval()


def from_diffusers(described: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> DCAutoencoder:
    """Return the codec of an AutoencoderDC's configuration and weights.

    path: of errors. Raises DataError for one of other layers than ours.
    """
    return read_codec(lambda: DCAutoencoder(_config(described)), _tensors, tensors, path, _REMEDY)


def _tensors(codec: DCAutoencoder, weights: Weights) -> dict[str, Tensor]:
    given = {}
    for name in codec.state_dict():
        if (found := _QKV.fullmatch(name)) is not None:
            given[name] = torch.cat([weights.get(f"{found[1]}.to_{letter}.weight") for letter in "qkv"])
        else:
            given[name] = weights.get(_their_name(name))
    return given


def _their_name(name: str) -> str:
    for ours, theirs in _RENAMED:
        name = name.replace(ours, theirs)
    return name


def _levels(config: DCConfig) -> dict[str, Any]:
    """Return what their class takes for our levels."""
    num, attending = len(config.widths), config.attention_levels
    types = tuple(_BLOCKS[level >= num - attending] for level in range(num))
    scales = tuple(config.attention_scales if level >= num - attending else () for level in range(num))
    batch = [level < config.batch_norm_levels for level in range(num)]
    sides = {
        "block_types": (types, types),
        "block_out_channels": (tuple(config.widths),) * 2,
        "layers_per_block": (tuple(config.encoder_depths), tuple(config.depths_of_decoder)),
        "qkv_multiscales": (scales, scales),
    }
    given = {
        f"{side}_{name}": pair[at] for name, pair in sides.items() for at, side in enumerate(("encoder", "decoder"))
    }
    return {
        **given,
        "in_channels": config.in_channels,
        "latent_channels": config.latent_channels,
        "attention_head_dim": config.head_width,
        "decoder_norm_types": tuple("batch_norm" if each else "rms_norm" for each in batch),
        "decoder_act_fns": tuple("relu" if each else "silu" for each in batch),
        "encoder_out_shortcut": True,
        "decoder_in_shortcut": True,
        "decoder_conv_act_fn": "relu",
    }


def _config(described: Mapping[str, Any]) -> DCConfig:
    """Return our settings for theirs. Raises ConfigError naming what we do not have."""
    widths = list(described["encoder_block_out_channels"])
    num, channels = len(widths), math.gcd(*widths)
    wholes = ("block_types", "norm_types", "act_fns")

    def each_level(name: str) -> list[Any]:
        value = described[name]
        return [value] * num if isinstance(value, str) and name.endswith(wholes) else list(value)

    attending = each_level("encoder_block_types").count(_BLOCKS[1])
    scales = [tuple(each) for each in described["encoder_qkv_multiscales"]]
    resamplings = {pair[0]: name for name, pair in _RESAMPLING.items()}
    config = DCConfig(
        channels=channels,
        channel_multipliers=tuple(width // channels for width in widths),
        encoder_depths=tuple(described["encoder_layers_per_block"]),
        decoder_depths=tuple(described["decoder_layers_per_block"]),
        attention_levels=attending,
        attention_scales=scales[-1] if attending and scales else (),
        head_width=described["attention_head_dim"],
        batch_norm_levels=each_level("decoder_norm_types").count("batch_norm"),
        resampling=resamplings.get(described["downsample_block_type"], described["downsample_block_type"]),
        latent_channels=described["latent_channels"],
    )
    wanted = {**_levels(config), "upsample_block_type": _RESAMPLING[config.resampling][1]}
    for name, value in wanted.items():
        found = described.get(name, value)
        found = each_level(name) if name.endswith(wholes) else found
        if _plain(found) != _plain(value):
            raise ConfigError(f"{name} is {found}, where {value} is expected")
    return config


def _plain(value: object) -> object:
    """Return tuples as lists."""
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
