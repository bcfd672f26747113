"""Inception-v3 for the Fréchet inception distance: from torch-fidelity, with its weights."""

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
from .extractor import INCEPTION, Extractor

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
DIM = 2048
REMEDY = f"give the file {WEIGHTS} (95 MB) from {URL}, or ask for the download"


def open_inception(file: Path, device: torch.device) -> Extractor:
    """Open the network of the FID. Its sha256 is compared before the file is unpickled.

    Raises ConfigError when torch-fidelity or the torchvision it needs is not installed; DataError when the file is
    missing or another.
    """
    build = _torch_fidelity()
    require_sha256(file, SHA256, REMEDY)
    built = build("inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file))
    network: nn.Module = built.eval().requires_grad_(False).to(device)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        # FIDs are measured on 8-bit pixels, so it gets 8-bit pixels; it resizes them to 299 itself.
        pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        features, logits = network(pixels)
        return features, logits

    resize = "8-bit, bilinear as TensorFlow 1 without antialias 299"
    return Extractor(INCEPTION, DIM, SHA256, resize, None, device, run)


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


def downloaded(file: Path | None) -> Path:
    """Download the weights, to torch's cache or to `file`, unless they are there. Raises DataError."""
    file = file or Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    if file.exists():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with saying_disk_full(file):
            torch.hub.download_url_to_file(URL, str(file), hash_prefix=SHA256, progress=False)
    except (URLError, HTTPException, ConnectionError, TimeoutError, RuntimeError) as error:
        raise DataError(f"cannot download {URL}: {error}", f"fetch it elsewhere and give the file {WEIGHTS}") from None
    return file
