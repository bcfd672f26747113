"""Feature extractors: the networks in whose features images are compared, each with its identity.

A distance between images depends on the network it was measured in, so every number is stored with name, weights
and resize.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..colours import in_rgb
from ..errors import DataError
from ..system.precision import no_tf32

INCEPTION = "inception"  # the Fréchet distance in its features is the FID


@dataclass(frozen=True)
class Extractor:
    """A frozen network that turns images into features, and into logits where it is a classifier.

    name: part of every number's name; dim: features per image; weights_sha256: of the weights file; resize: how images
    are brought to the network's size, in words; class_names: of the logits, where known; run: resized or not, images
    (B, 3, H, W) in [-1, 1] on `device` → features (B, dim), logits (B, K). accuracy: the share of held-out real images
    that its training measured it to read as their class, where that is known.
    """

    name: str
    dim: int
    weights_sha256: str
    resize: str
    class_names: tuple[str, ...] | None
    device: torch.device
    run: Callable[[Tensor], tuple[Tensor, Tensor]]
    accuracy: float | None = None

    def features(self, images: Tensor) -> Tensor:
        """Return features, float32 (B, dim), of images float32 (B, 3, H, W) in [-1, 1]."""
        return self.both(images)[0]

    def logits(self, images: Tensor) -> Tensor:
        """Return logits, float32 (B, K), of images float32 (B, 3, H, W) in [-1, 1]."""
        return self.both(images)[1]

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, dim) and logits (B, K) from one pass; of grey images as of such in colour."""
        images = in_rgb(images)
        assert images.ndim == 4 and images.shape[1] == 3, f"images (B, 3, H, W), not {tuple(images.shape)}"
        with torch.no_grad(), no_tf32():
            features, logits = self.run(images.to(self.device, torch.float32))
        assert features.shape[1] == self.dim
        return features.float(), logits.float()


@dataclass(frozen=True)
class Features:
    """An extractor's output for a set of images: features float32 (N, D) and logits float32 (N, K), on the CPU."""

    features: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.features)


def extract(extractor: Extractor, batches: Iterable[Tensor]) -> Features:
    """Run an extractor over batches of images (B, 3, H, W) in [-1, 1].

    Raises DataError without images, or for one whose features are not finite.
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
