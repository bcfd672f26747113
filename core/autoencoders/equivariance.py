"""Equivariance regularisation of latents (Kouzelis et al. 2025, "EQ-VAE").

In a share of the training steps the latents of a batch are turned by quarters and halved in size before they are
decoded, and the result is compared with the images treated alike. Latents become smoother for it, and easier to
diffuse. A step costs no more; the paper's scales between 1/4 and 1 are 1/2 here, the mean of 2 x 2 values, which has
the same meaning for latents and pixels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from .codec import Autoencoder, Draws


@dataclass(frozen=True)
class Change:
    """A turn by `quarters` of a circle, and to half the size where `halved`, of maps (B, C, h, w)."""

    quarters: int
    halved: bool

    def __call__(self, maps: Tensor) -> Tensor:
        """Return maps (B, C, h', w'), each side halved or not, and both exchanged by an odd number of quarters."""
        turned = torch.rot90(maps, self.quarters, dims=(2, 3))
        return F.avg_pool2d(turned, 2) if self.halved else turned


CHANGES = [Change(quarters, halved) for halved in (False, True) for quarters in range(4)][1:]


def require_halves(autoencoder: Autoencoder, size: tuple[int, int], smallest: int = 1) -> None:
    """Raise ConfigError where latents of images of a size, height and width, cannot be turned and halved.

    smallest: the side that halved images must have, for the other losses.
    """
    _, *sides = autoencoder.latent_shape(size)
    if autoencoder.codec.latent_sides is not None or any(side % 2 for side in sides):
        raise ConfigError(
            f"`loss.equivariance`: latents of {' x '.join(map(str, sides))} cannot be halved with this autoencoder",
            "leave it out, or use images whose sides are multiples of "
            f"{2 * autoencoder.downsampling} with an autoencoder that takes any size",
        )
    if min(size) < 2 * smallest:
        raise ConfigError(
            f"`loss.equivariance` halves images of {min(size)} pixels: `loss.lpips` needs {smallest}",
            f"leave one of both out, or use images of at least {2 * smallest} pixels",
        )


def drawn(share: float, draws: Draws) -> Change | None:
    """Return the change of a training step, one of CHANGES alike; None in the steps that have none."""
    if not share:
        return None
    generator = draws.generator("equivariance")
    if float(torch.rand((), generator=generator)) >= share:
        return None
    return CHANGES[int(torch.randint(len(CHANGES), (), generator=generator))]
