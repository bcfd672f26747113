"""Inception-v3 as the Fréchet inception distance needs it: through torch-fidelity, with the one set of weights."""

from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from ..errors import ConfigError, DataError
from ..files import saying_disk_full
from ..runs.weights import require_sha256

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
DIM = 2048
REMEDY = f"give the file {WEIGHTS} (95 MB) from {URL}, or ask for the download"


class Inception(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] → features (B, 2048), unbiased logits (B, 1008); resized to 299 inside."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        # The network was measured on 8-bit pixels, so it is given 8-bit pixels.
        pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        features, logits = self.network(pixels)
        return features, logits


def load_inception(path: Path | None, download: bool = False) -> tuple[Inception, Path]:
    """Open the network of the FID from a local file, or after an explicit download; also return the file.

    The file's sha256 is compared before it is unpickled. Raises ConfigError when torch-fidelity or the torchvision it
    needs is not installed, or no file was given; DataError when the file is missing or another.
    """
    build = _torch_fidelity()
    if path is None and not download:
        raise ConfigError("the inception extractor needs a weights file", REMEDY)
    file = path or Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    if download and not file.exists():
        _download(file)
    require_sha256(file, SHA256, REMEDY)
    network = build("inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file))
    return Inception(network).eval().requires_grad_(False), file


def _torch_fidelity() -> Callable[..., Any]:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        message = f"the inception extractor needs torch-fidelity, and the module {error.name} is not installed"
        remedy = "pip install torch-fidelity"
        if error.name != "torch_fidelity":
            remedy = f"install the {error.name} that belongs to this torch, from where torch is from"
        raise ConfigError(message, remedy) from None
    except RuntimeError as error:
        message = f"the inception extractor needs torchvision, which does not fit this torch: {error}"
        raise ConfigError(message, "install the torchvision that belongs to it, from where torch is from") from None
    build: Callable[..., Any] = FeatureExtractorInceptionV3
    return build


def _download(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with saying_disk_full(file):
            torch.hub.download_url_to_file(URL, str(file), hash_prefix=SHA256, progress=False)
    except (URLError, HTTPException, ConnectionError, TimeoutError, RuntimeError) as error:
        raise DataError(f"cannot download {URL}: {error}", f"fetch it elsewhere and give the file {WEIGHTS}") from None
