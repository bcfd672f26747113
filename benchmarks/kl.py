"""A KL autoencoder's training step, and images to latents, against diffusers' AutoencoderKL of the same weights.

Both are trained on the L1 and the divergence of a drawn latent, with clipping, AdamW and an EMA: ours in the loop of
`ldm train-autoencoder`, diffusers' as its examples train, without perceptual loss and discriminator.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.core.autoencoders.kl import KLAutoencoder
from ldm.core.interchange.autoencoder_kl import stock
from ldm.stages.configs import TrainAutoencoder

from .options import Options
from .processes import Work
from .vqvae import DTYPES, batches, compare_setups, own_step, peer_step, settings_of, task_of

PEER = "diffusers AutoencoderKL"


@dataclass(frozen=True)
class Setup:
    """A batch of `images` of 64 × 64; of the network, the widths in units of `channels`, one block at each level."""

    images: int
    channels: int
    multipliers: tuple[int, ...]
    latent_channels: int = 4
    side: int = 64

    @property
    def title(self) -> str:
        widths = ", ".join(str(self.channels * each) for each in self.multipliers)
        return (
            f"{self.images} images of {self.side} × {self.side}: levels {widths} wide, one block each, attention,"
            f" {self.latent_channels} latent channels"
        )


SETUPS = (Setup(images=16, channels=32, multipliers=(1, 2, 4, 4)),)


def measure(options: Options) -> dict[str, Any]:
    """Compare training steps, and encoding, of each setup."""
    works = {"Training step": (peer_training, training), "To latents": (peer_encoding, encoding)}
    return compare_setups(SETUPS, works, PEER, options)


def training(setup: Setup, precision: str) -> Work:
    """Return a step of `ldm train-autoencoder`."""
    return own_step(_config(setup, precision))


def encoding(setup: Setup, precision: str) -> Work:
    """Return the encoding of a batch to mean and deviation."""
    config = _config(setup, precision)
    task = task_of(config)
    codec, several = task.codec.eval(), batches(config)

    @torch.no_grad()
    def encode() -> Tensor:
        with task.policy.autocast():
            return codec.encode(next(several)).mean

    return encode


def peer_training(setup: Setup, precision: str) -> Work:
    """Return a step as diffusers' examples take it."""
    config, network = _config(setup, precision), _peer(setup)
    weight = config.model.network_config().kl_weight / (3 * setup.side**2)  # type: ignore[attr-defined]

    def loss_of(images: Tensor) -> Tensor:
        posterior = network.encode(images).latent_dist
        decoded = network.decode(posterior.sample()).sample
        return F.l1_loss(decoded.float(), images) + weight * posterior.kl().mean()

    return peer_step(network, loss_of, config, precision)


def peer_encoding(setup: Setup, precision: str) -> Work:
    """Return what diffusers does to the same end."""
    network, several = _peer(setup).eval(), batches(_config(setup, precision))

    @torch.no_grad()
    def encode() -> Tensor:
        with torch.autocast("cpu", DTYPES[precision], enabled=precision != "fp32"):
            mean: Tensor = network.encode(next(several)).latent_dist.mean
        return mean

    return encode


def _config(setup: Setup, precision: str) -> TrainAutoencoder:
    """Return the settings under which `ldm train-autoencoder` trains a setup."""
    model = {
        "preset": "kl-f8",
        "channels": setup.channels,
        "channel_multipliers": list(setup.multipliers),
        "num_res_blocks": 1,
        "num_decoder_blocks": 2,
        "latent_channels": setup.latent_channels,
    }
    return TrainAutoencoder.model_validate(settings_of(model, setup.side, setup.images, precision))


def _peer(setup: Setup) -> Any:
    """Return the peer's network, of the same layers."""
    torch.manual_seed(0)
    return stock(KLAutoencoder(_config(setup, "fp32").model.network_config())).train()
