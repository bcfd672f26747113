"""Feature extractors: the networks in whose features images are compared, each with what identifies it.

A distance between images means nothing without the network it was measured in, so name, weights and resize travel
with every number.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, DataError
from ..files import sha256_file
from ..system.precision import no_tf32
from . import classifier, inception, lenet, mobilenet


@dataclass(frozen=True)
class Extractor:
    """A frozen network that turns images into features, and into logits where it is a classifier.

    name: part of every number's name; dim: features per image; weights_sha256: of the weights file; resize: how images
    are brought to the network's size, in words; class_names: of the logits, where known; run: resized or not, images
    (B, 3, H, W) in [-1, 1] on `device` → features (B, dim), logits (B, K).
    """

    name: str
    dim: int
    weights_sha256: str
    resize: str
    class_names: tuple[str, ...] | None
    device: torch.device
    run: Callable[[Tensor], tuple[Tensor, Tensor]]

    def features(self, images: Tensor) -> Tensor:
        """Return features, float32 (B, dim), of images float32 (B, 3, H, W) in [-1, 1]."""
        return self.both(images)[0]

    def logits(self, images: Tensor) -> Tensor:
        """Return logits, float32 (B, K), of images float32 (B, 3, H, W) in [-1, 1]."""
        return self.both(images)[1]

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, dim) and logits (B, K) from one pass."""
        assert images.ndim == 4 and images.shape[1] == 3, f"images (B, 3, H, W), not {tuple(images.shape)}"
        with torch.no_grad(), no_tf32():
            features, logits = self.run(images.to(self.device, torch.float32))
        assert features.shape[1] == self.dim
        return features.float(), logits.float()


@dataclass(frozen=True)
class Features:
    """What an extractor saw in a set of images: features float32 (N, D) and logits float32 (N, K), on the CPU."""

    features: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.features)


def extract(extractor: Extractor, batches: Iterable[Tensor]) -> Features:
    """Run an extractor over batches of images (B, 3, H, W) in [-1, 1].

    Raises DataError when there is no image, or one whose features are not finite.
    """
    seen = [tuple(part.cpu() for part in extractor.both(images)) for images in batches]
    if not seen:
        raise DataError("no images to compare", "give a source that holds images")
    features, logits = (torch.cat(parts) for parts in zip(*seen, strict=True))
    if not features.isfinite().all():
        row = int((~features.isfinite().all(1)).nonzero()[0])
        raise DataError(f"image {row} has features that are not finite", "look at that image: it may hold NaN")
    return Features(features, logits)


def resize(images: Tensor, size: int) -> Tensor:
    """Resize images (B, C, H, W) to (B, C, size, size), bilinear with antialiasing; no-op at that size already."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)


def open_extractor(
    kind: str, weights: Path | None = None, device: torch.device | str = "cpu", download: bool = False
) -> Extractor:
    """Open an extractor: classifier (our own, from its folder), mobilenet-v2 (folder), lenet (file), inception (file).

    download: fetch the weights of `inception` when they are not there. Raises ConfigError for an unknown kind, missing
    packages or no path; DataError naming the file for weights that are missing, damaged or other.
    """
    if kind not in KINDS:
        raise ConfigError(f"unknown feature extractor {kind!r}", f"choose one of {', '.join(KINDS)}")
    device = torch.device(device)
    if kind == "inception":
        return _open_inception(weights, device, download)
    if download:
        raise ConfigError(f"the weights of {kind} cannot be downloaded", "give a local path")
    if weights is None:
        raise ConfigError(f"the {kind} extractor needs its weights", REMEDIES[kind])
    return KINDS[kind](weights, device)


def _open_classifier(folder: Path, device: torch.device) -> Extractor:
    saved = classifier.load(folder)
    network, size = saved.network.to(device), saved.network.config.image_size
    if network.config.in_channels != 3:
        raise DataError(f"{folder} judges {network.config.in_channels}-channel input, not images", classifier.REMEDY)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        features = network.features(resize(images, size))
        return features, network.head(features)

    described = f"bilinear antialias {size}"
    return Extractor("classifier", network.dim, saved.weights_sha256, described, saved.class_names, device, run)


def _open_mobilenet(folder: Path, device: torch.device) -> Extractor:
    network, names = mobilenet.load_mobilenet(folder)
    network.to(device)
    sha256 = sha256_file(folder / mobilenet.WEIGHTS)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = network(resize(images, mobilenet.SIZE))
        return features, logits

    described = f"bilinear antialias {mobilenet.SIZE}"
    return Extractor("mobilenet-v2", mobilenet.DIM, sha256, described, names, device, run)


def _open_lenet(path: Path, device: torch.device) -> Extractor:
    network, _ = lenet.load_lenet(path)
    network.to(device)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        grey = (images.mean(1, keepdim=True) + 1) / 2
        features, logits = network(resize(grey, lenet.SIZE))
        return features, logits

    described = f"mean of RGB, bilinear antialias {lenet.SIZE}"
    return Extractor("lenet", lenet.DIM, lenet.SHA256, described, lenet.CLASS_NAMES, device, run)


def _open_inception(path: Path | None, device: torch.device, download: bool = False) -> Extractor:
    loaded, _ = inception.load_inception(path, download)
    network: nn.Module = loaded.to(device)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = network(images)
        return features, logits

    described = "8-bit, bilinear as TensorFlow 1 without antialias 299"
    return Extractor(INCEPTION, inception.DIM, inception.SHA256, described, None, device, run)


INCEPTION = "inception"
KINDS: dict[str, Callable[[Path, torch.device], Extractor]] = {
    "classifier": _open_classifier,
    "mobilenet-v2": _open_mobilenet,
    "lenet": _open_lenet,
    INCEPTION: _open_inception,
}
REMEDIES = {"classifier": classifier.REMEDY, "mobilenet-v2": mobilenet.REMEDY, "lenet": lenet.REMEDY}
