"""A discriminator of patches (Isola et al. 2017, PatchGAN).

GroupNorm stands where the paper has BatchNorm: it keeps no state, so a step that is skipped changes nothing.
"""

import math

from torch import Tensor, nn

_WIDEST = 8
_NORM_GROUPS = 8


class Discriminator(nn.Module):
    """Classify overlapping patches of an image as real or not: num_layers 1, 2, 3 see 16, 34, 70 pixels."""

    def __init__(self, channels: int = 64, num_layers: int = 3, in_channels: int = 3) -> None:
        super().__init__()
        widths = [channels * min(2**level, _WIDEST) for level in range(num_layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level in range(1, num_layers + 1):
            stride = 2 if level < num_layers else 1
            layers += [
                nn.Conv2d(widths[level - 1], widths[level], 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(math.gcd(_NORM_GROUPS, widths[level]), widths[level]),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 1, h, w), one per patch of images (B, 3, H, W) in [-1, 1]."""
        return self.layers(images)


def layers_for(image_size: int) -> int:
    """Return the number of layers whose patch is at most about half of the image."""
    return 3 if image_size >= 128 else 2 if image_size >= 64 else 1
