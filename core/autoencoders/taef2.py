"""TAEF2, a tiny autoencoder for the latent space of FLUX.2: 32 channels, 8 times smaller.

Weights by Ollin Boer Bohan, github.com/madebyollin/taesd (MIT), two published files known by their hashes. The network
works on images in [0, 1]; here, as everywhere, they are in [-1, 1].
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..runs.weights import load_into, read_known_pth
from .codec import Posterior
from .published_config import TAEF2Config

ENCODER = "taef2_encoder.pth"
DECODER = "taef2_decoder.pth"
SHA256 = {
    ENCODER: "10a4e1021e89d7551eaf161352da8dbd0b1aa83872ae28b150c1df1ce2f147b6",
    DECODER: "0a44a31e1ae59eb9dbf9359d24942fd3ef5928162c1800d97a28c61d51be0ab5",
}
_REMEDY = "take taef2_encoder.pth and taef2_decoder.pth from github.com/madebyollin/taesd"
_WIDTH = 64
_LATENT_CHANNELS = 32
_LEVELS = 3


class TAEF2(nn.Module):
    """The encoder and decoder; a `Codec`. Untrained until weights are loaded."""

    kind = "taef2"
    in_channels = 3
    latent_channels = _LATENT_CHANNELS
    downsampling = 2**_LEVELS
    latent_sides = None

    def __init__(self, config: TAEF2Config) -> None:
        super().__init__()
        self.encoder, self.decoder = _encoder(), _decoder()

    def encode(self, images: Tensor) -> Posterior:
        """Return raw latents (B, 32, h, w), which are not random."""
        return Posterior(self.encoder((images + 1) / 2))

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (B, 3, H, W), not clamped."""
        return self.decoder(latents) * 2 - 1

    def rotate(self, rotation: Tensor) -> bool:
        """Return False: there is no codebook."""
        return False

    def describe(self) -> Mapping[str, Any]:
        """Return an empty configuration: there is one size."""
        return {}


def load_taef2(folder: Path) -> TAEF2:
    """Load the two published files. Raises DataError naming the one that is missing or another."""
    codec = TAEF2(TAEF2Config())
    for network, name in ((codec.encoder, ENCODER), (codec.decoder, DECODER)):
        load_into(network, read_known_pth(folder / name, SHA256[name], _REMEDY), folder / name, _REMEDY)
    return codec


class _Block(nn.Module):
    """A residual block of three convolutions; at the lowest level, after a normalised mixing."""

    def __init__(self, normalised: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(), nn.ReLU(), _conv(), nn.ReLU(), _conv())
        self.pool = _mixer() if normalised else None

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(x + self.conv(x))


class _SoftClamp(nn.Module):
    """Keep latents within (-3, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


# The positions of layers within these two lists are the names of the weights in the files.
def _encoder() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, _WIDTH, 3, padding=1), _Block(False)]
    for level in range(1, _LEVELS + 1):
        layers += [_conv(stride=2, bias=False), *(_Block(level == _LEVELS) for _ in range(3))]
    return nn.Sequential(*layers, nn.Conv2d(_WIDTH, _LATENT_CHANNELS, 3, padding=1))


def _decoder() -> nn.Sequential:
    layers: list[nn.Module] = [_SoftClamp(), nn.Conv2d(_LATENT_CHANNELS, _WIDTH, 3, padding=1), nn.ReLU()]
    for level in range(_LEVELS, 0, -1):
        layers += [*(_Block(level == _LEVELS) for _ in range(3)), nn.Upsample(scale_factor=2), _conv(bias=False)]
    return nn.Sequential(*layers, _Block(False), nn.Conv2d(_WIDTH, 3, 3, padding=1))


def _conv(stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(_WIDTH, _WIDTH, 3, stride=stride, padding=1, bias=bias)


def _mixer() -> nn.Sequential:
    wide = 4 * _WIDTH
    return nn.Sequential(
        nn.Conv2d(_WIDTH, wide, 1, bias=False), nn.GroupNorm(4, wide), nn.ReLU(), nn.Conv2d(wide, _WIDTH, 1, bias=False)
    )
