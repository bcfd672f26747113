"""What a denoiser is told of the part of an image that it sees: crop conditioning.

Podell et al. 2023 ("SDXL", section 2.2); here as augmentation that does not leak (Karras et al. 2022): whole images are
zeros, which add nothing, so that a network that is told nothing draws whole ones. `core.images.crops` has the numbers.
"""

from torch import nn

CROP = "crop"  # the field of a condition, float32 (B, 3)


class CropEmbedding(nn.Linear):
    """A vector (B, width) for what is told of crops (B, 3)."""

    def __init__(self, width: int) -> None:
        super().__init__(3, width, bias=False)
