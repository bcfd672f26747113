"""Images of one channel in the place of three. Imports no torch."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def in_rgb(images: "Tensor") -> "Tensor":
    """Return images (B, 3, H, W) of grey or coloured ones (B, 1 or 3, H, W): for networks that know colours only."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
