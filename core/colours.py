"""Images of one or four channels in the place of three. Imports no torch."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def in_rgb(images: "Tensor") -> "Tensor":
    """Return images (B, 3, H, W) of such in [-1, 1] that are grey (B, 1, H, W), in colour, or see-through (B, 4, H, W).

    For networks that know colours only. What is seen through is white.
    """
    if images.shape[1] == 1:
        return images.expand(-1, 3, -1, -1)
    return 1 + (images[:, :3] - 1) * (images[:, 3:] + 1) / 2 if images.shape[1] == 4 else images
