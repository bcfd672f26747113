"""Our autoencoders as diffusers has them: the statistics of the latents folded into the network's own layers.

Its DiT pipeline does nothing with latents but divide them by one `scaling_factor` before they are decoded.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..autoencoders.codec import Autoencoder
from ..autoencoders.pretrained import DiffusersCodec, build_diffusers
from ..autoencoders.vq import VQVAE
from ..errors import ConfigError, DataError
from ..files import read_json
from .vqmodel import even_deviation, to_vqmodel

CONFIG = "config.json"


def to_diffusers(autoencoder: Autoencoder, side: int) -> nn.Module:
    """Return a network of diffusers that decodes latents (B, C, side, side), divided by its scaling_factor, as ours.

    On the CPU, in evaluation mode. Raises ConfigError for an autoencoder that cannot be expressed there.
    """
    codec = autoencoder.codec
    if isinstance(codec, VQVAE):
        return to_vqmodel(autoencoder, side)
    if not isinstance(codec, DiffusersCodec):
        raise ConfigError(
            f"an autoencoder of kind {codec.kind!r} has no class in diffusers", "export a run with another autoencoder"
        )
    if codec.kind == "AutoencoderKL":
        return _kl(autoencoder, codec)
    if codec.kind == "VQModel":
        return _vq(autoencoder, codec)
    return _scaled(autoencoder, codec)


def encodes(autoencoder: Autoencoder) -> bool:
    """Say whether the exported network encodes as well."""
    return not isinstance(autoencoder.codec, VQVAE)


def use_scaling_factor(autoencoder: Autoencoder, folder: Path) -> None:
    """Give an autoencoder from a diffusers folder the latent space of that folder's scaling factor.

    Which is what DiTs on its latents were trained with: mean 0, and 1 / scaling_factor for every deviation. Raises
    DataError where config.json has none.
    """
    path = folder / CONFIG
    factor = read_json(path).get("scaling_factor")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < float("inf"):
        raise DataError(f"{path}: scaling_factor is {factor!r}", "write there what the denoiser was trained with")
    autoencoder.set_statistics(
        torch.zeros(autoencoder.latent_channels), torch.full((autoencoder.latent_channels,), 1 / factor)
    )


@torch.no_grad()
def _kl(autoencoder: Autoencoder, codec: DiffusersCodec) -> nn.Module:
    """Fold z = s n + m into the 1×1 convolutions around the latent, which some configurations leave out."""
    mean, std = autoencoder.latent_mean.cpu(), autoencoder.latent_std.cpu()
    network = _copy(codec, scaling_factor=1.0, shift_factor=None, use_quant_conv=True, use_post_quant_conv=True)
    quant, post = network.quant_conv, network.post_quant_conv
    quant.weight[: len(std)] /= std[:, None, None, None]
    quant.bias.copy_(torch.cat([(quant.bias[: len(std)] - mean) / std, quant.bias[len(std) :] - 2 * std.log()]))
    post.bias.add_(post.weight[:, :, 0, 0] @ mean)
    post.weight.mul_(std[None, :, None, None])
    return network


@torch.no_grad()
def _vq(autoencoder: Autoencoder, codec: DiffusersCodec) -> nn.Module:
    """Move the codebook into the normalised space too, where the nearest code is the same."""
    if codec.describe().get("norm_type") == "spatial":
        raise ConfigError(
            "the decoder's norms look at the codes themselves, and would see them normalised",
            "export a run with another autoencoder",
        )
    std, mean = even_deviation(autoencoder), autoencoder.latent_mean.cpu()
    network = _copy(codec, scaling_factor=1.0)
    quant, post = network.quant_conv, network.post_quant_conv
    quant.weight.div_(std)
    quant.bias.copy_((quant.bias - mean) / std)
    network.quantize.embedding.weight.copy_((network.quantize.embedding.weight - mean) / std)
    post.bias.add_(post.weight[:, :, 0, 0] @ mean)
    post.weight.mul_(std)
    return network


def _scaled(autoencoder: Autoencoder, codec: DiffusersCodec) -> nn.Module:
    std, mean = autoencoder.latent_std, autoencoder.latent_mean
    if bool((mean != 0).any()) or bool((std != std[0]).any()):
        raise ConfigError(
            f"an {codec.kind} has no layer that could take in latents normalised channel by channel",
            "export a run with an AutoencoderKL, a VQModel or a VQ-VAE of its own",
        )
    return _copy(codec, scaling_factor=1 / float(std[0]))


def _copy(codec: DiffusersCodec, **changes: Any) -> Any:
    """Return the codec's network with some of its configuration changed; 1×1 convolutions it lacked do nothing."""
    config = json.loads(json.dumps(dict(codec.describe()))) | changes
    network: Any = build_diffusers(codec.kind, config).model
    state = network.state_dict()
    for name in ("quant_conv", "post_quant_conv"):
        if f"{name}.weight" in state:
            num = state[f"{name}.bias"].numel()
            state |= {f"{name}.weight": torch.eye(num)[:, :, None, None], f"{name}.bias": torch.zeros(num)}
    network.load_state_dict(state | {name: tensor.cpu() for name, tensor in codec.model.state_dict().items()})
    return network.float().eval()
