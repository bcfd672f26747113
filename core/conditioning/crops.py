"""Crop conditioning: which part of an image it is that a denoiser sees (Podell et al. 2023, "SDXL", section 2.2).

Here it lets crops augment small sets without leaking into what is drawn (Karras et al. 2022, section 5): the condition
of whole images is zeros, which add nothing, so that without this condition a network draws whole images.
"""

from torch import nn

CROP = "crop"  # the field of a condition, float32 (B, 3)


class CropEmbedding(nn.Linear):
    """A vector (B, width) for the condition (B, 3) of crops; none for zeros."""

    def __init__(self, width: int) -> None:
        super().__init__(3, width, bias=False)
