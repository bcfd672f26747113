"""Masks of what is to be drawn anew, beside the images that they are of: from a picture, a box, or new margins.

A mask is uint8 (H, W): 255 is drawn anew, 0 is kept, what lies between is blended.
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ..errors import DataError
from .decode import MAX_PIXELS
from .loader import Preparation

Margins = dict[str, int]
SIDES = ("left", "top", "right", "bottom")


@dataclass(frozen=True)
class Masked:
    """An image of the size of training, uint8 (H, W, C), and its mask, uint8 (H, W)."""

    image: np.ndarray
    mask: np.ndarray


def unmasked(picture: Image.Image, prepare: Preparation) -> Masked:
    """Return an image of which all is drawn anew, as a square of training."""
    return Masked(prepare.square(picture), np.full(prepare.shape[:2], 255, dtype=np.uint8))


def masked_by(picture: Image.Image, mask: np.ndarray, prepare: Preparation) -> Masked:
    """Return an image and its mask as squares of training; the mask may have any size, and covers the whole image.

    Padding around the image is kept, unless all of the image is drawn anew.
    """
    whole = Image.fromarray(mask).resize(picture.size, Image.Resampling.BILINEAR)
    padding = (255,) * 3 if mask.min() == 255 else (0,) * 3
    laid = replace(prepare, background=padding, channels=3).square(whole)
    return Masked(prepare.square(picture), laid[:, :, 0])


def boxed(picture: Image.Image, box: tuple[int, int, int, int], prepare: Preparation, name: str) -> Masked:
    """Mask x, y, width, height of an image, in its own pixels. Raises DataError as `require_inside` does."""
    require_inside(picture, box, name)
    x, y, width, height = box
    mask = np.zeros((picture.height, picture.width), dtype=np.uint8)
    mask[y : y + height, x : x + width] = 255
    return masked_by(picture, mask, prepare)


def require_inside(picture: Image.Image, box: tuple[int, int, int, int], name: str) -> None:
    """Raise DataError, with the image's name, where x, y, width, height do not lie inside of it."""
    x, y, width, height = box
    if min(x, y) < 0 or min(width, height) < 1 or x + width > picture.width or y + height > picture.height:
        raise DataError(
            f"{name} has {picture.width} x {picture.height} pixels, in which the box {','.join(map(str, box))} does not"
            " lie",
            "give x,y,w,h inside of the image",
        )


def outpainted(picture: Image.Image, margins: Margins, prepare: Preparation) -> Masked:
    """Put an image into a larger one whose margins are drawn anew; they begin as its edges, continued.

    margins: pixels of the image by side. The side that is too short gets more, on both ends, until the whole is square,
    or as wide for its height as images are in training; not where these are stretched.
    """
    left, top, right, bottom = (margins.get(side, 0) for side in SIDES)
    width, height = picture.width + left + right, picture.height + top + bottom
    tall, wide, _ = prepare.shape
    whole = max(width, -(-height * wide // tall)), max(height, -(-width * tall // wide))
    missing = (0, 0) if prepare.fit == "stretch" else (whole[0] - width, whole[1] - height)
    if whole[0] * whole[1] > MAX_PIXELS:
        raise DataError(f"an image of {width:,} x {height:,} pixels with its margins is too large", "give smaller ones")
    left, top = left + missing[0] // 2, top + missing[1] // 2
    right, bottom = right + missing[0] - missing[0] // 2, bottom + missing[1] - missing[1] // 2
    around = ((top, bottom), (left, right))
    image = np.pad(np.asarray(picture), (*around, (0, 0)), mode="edge")
    mask = np.pad(np.zeros((picture.height, picture.width), dtype=np.uint8), around, constant_values=255)
    return masked_by(Image.fromarray(image), mask, prepare)


def feathered(mask: np.ndarray, width: int) -> np.ndarray:
    """Return how much of the new image shows, float32 (H, W) in [0, 1]: it fades in over `width` pixels.

    It is 0 wherever the mask is, so that what is kept stays as it is. The border of the image is not an edge.
    """
    level = mask.astype(np.float32) / 255
    shown = level
    for _ in range(width):
        # The least of a pixel and its neighbours: one pixel further from what is kept.
        padded = np.pad(level, 1, mode="edge")
        neighbours = [padded[1:-1, 1:-1], padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        level = np.min(neighbours, axis=0)
        shown = shown + level
    return shown / (width + 1)


def pasted(image: np.ndarray, drawn: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Lay what was drawn over the image as far as it shows; both uint8 (H, W, C), shown float32 (H, W)."""
    share = shown[:, :, None]
    return (share * drawn + (1 - share) * image).round().astype(np.uint8)
