"""Random crops of images, of which a small set shows more, and their conditions: see `core.conditioning.crops`."""

from dataclasses import dataclass

import numpy as np

from .. import seeds


@dataclass(frozen=True)
class Crop:
    """A part of an image: of its size in training, cut out at (top, left) where it was brought to `enlarged` pixels.

    enlarged: height and width. A whole image is one that is not enlarged.
    """

    enlarged: tuple[int, int]
    top: int
    left: int

    def condition(self, size: tuple[int, int]) -> np.ndarray:
        """Return its condition, float32 (3,): zeros for a whole image of this size, height and width.

        log₂ of the enlargement; how far the middle lies below and right of the image's, in [-1, 1] of its halves.
        """
        (height, width), (tall, wide) = size, self.enlarged
        below, right = (2 * self.top + height - tall) / tall, (2 * self.left + width - wide) / wide
        return np.array([np.log2(tall / height), below, right], dtype=np.float32)


def random_crops(index: int, count: int, size: tuple[int, int], least: float) -> list[Crop]:
    """Return `count` crops for the image of an index, of at least the share `least` of its sides.

    size: height and width in training. Which ones follows from the index alone.
    """
    height, width = size
    draws = seeds.uniform(0, "crops", [index], (count, 3))[0].numpy()
    crops = []
    for scale, down, across in draws:
        share = least + (1 - least) * scale
        tall, wide = max(round(height / share), height), max(round(width / share), width)
        crops.append(Crop((tall, wide), int(down * (tall - height + 1)), int(across * (wide - width + 1))))
    return crops


def mirrored_conditions(conditions: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Return the conditions (B, 3) of crops where those of `mirrored`, bool (B,), are of the mirrored image."""
    return conditions * np.where(mirrored[:, None], np.array([1, 1, -1], np.float32), np.float32(1))


def chosen_crops(positions: np.ndarray, seed: int, count: int, share: float) -> np.ndarray:
    """Return which of `count` crops positions (B,) of the stream see, 1 … count, or 0, the whole; int64 (B,).

    share: of positions that see a crop.
    """
    draws = seeds.uniform(seed, "crop", positions, (2,)).numpy()
    return np.where(draws[:, 0] < share, 1 + (draws[:, 1] * count).astype(np.int64), 0)
