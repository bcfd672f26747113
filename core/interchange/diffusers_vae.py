"""Autoencoders of diffusers as they are there, the statistics of the latents folded into their own layers."""

from typing import Any

import torch
from torch import nn

from .. import files
from ..autoencoders.codec import Autoencoder
from ..autoencoders.pretrained import DiffusersCodec, build_diffusers
from ..errors import ConfigError
from .vqmodel import normalise_codes, normalise_posterior


def to_diffusers(autoencoder: Autoencoder, side: int) -> nn.Module:
    """Return the network, on the CPU, in evaluation mode; see `exporters.AutoencoderExporter`."""
    codec = autoencoder.codec
    assert isinstance(codec, DiffusersCodec)
    convert = {"AutoencoderKL": _kl, "VQModel": _vq}.get(codec.kind, _scaled)
    return convert(autoencoder, codec)


def notes(autoencoder: Autoencoder, side: int) -> list[str]:
    """Return nothing: it encodes and decodes as it did."""
    return []


def _kl(autoencoder: Autoencoder, codec: DiffusersCodec) -> nn.Module:
    """Fold the statistics into the 1×1 convolutions around the latent, which some configurations leave out."""
    network = _copy(codec, scaling_factor=1.0, shift_factor=None, use_quant_conv=True, use_post_quant_conv=True)
    return normalise_posterior(network, autoencoder)


@torch.no_grad()
def _vq(autoencoder: Autoencoder, codec: DiffusersCodec) -> nn.Module:
    if codec.describe().get("norm_type") == "spatial":
        raise ConfigError(
            "the decoder's norms look at the codes themselves, and would see them normalised",
            "export a run with another autoencoder",
        )
    network = _copy(codec, scaling_factor=1.0)
    normalise_codes(network, autoencoder)
    return network


def _scaled(autoencoder: Autoencoder, codec: DiffusersCodec) -> nn.Module:
    return _copy(codec, scaling_factor=1 / require_even(autoencoder, codec.kind))


def require_even(autoencoder: Autoencoder, class_name: str) -> float:
    """Return the one deviation of all latent channels. Raises ConfigError where they, or their means, differ."""
    std, mean = autoencoder.latent_std, autoencoder.latent_mean
    if bool((mean != 0).any()) or bool((std != std[0]).any()):
        raise ConfigError(
            f"an {class_name} has no layer that could take in latents normalised channel by channel",
            "export a run with an AutoencoderKL, a VQModel or a VQ-VAE of its own",
        )
    return float(std[0])


def _copy(codec: DiffusersCodec, **changes: Any) -> Any:
    """Return the codec's network with some of its configuration changed; 1×1 convolutions it lacked do nothing."""
    config = files.as_read(codec.describe()) | changes
    network: Any = build_diffusers(codec.kind, config).model
    state = network.state_dict()
    for name in ("quant_conv", "post_quant_conv"):
        if f"{name}.weight" in state:
            num = state[f"{name}.bias"].numel()
            state |= {f"{name}.weight": torch.eye(num)[:, :, None, None], f"{name}.bias": torch.zeros(num)}
    network.load_state_dict(state | {name: tensor.cpu() for name, tensor in codec.model.state_dict().items()})
    return network.float().eval()
