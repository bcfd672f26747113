"""Losses of a reconstruction: pixels, and a discriminator whose weight adapts (Esser et al. 2021, VQ-GAN)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..distributed import processes

PixelLoss = Callable[[Tensor, Tensor], Tensor]

RECONSTRUCTION: dict[str, PixelLoss] = {"l1": F.l1_loss, "l2": F.mse_loss}

_LARGEST_WEIGHT = 1e4
_SCALE = 2.0**14


def masked_loss(name: str, images: Tensor, originals: Tensor, weights: Tensor) -> Tensor:
    """Return the mean loss of pixels, scalar, each counting its weight, (B, 1, H, W) of mean 1 in each image."""
    by_pixel = {"l1": F.l1_loss, "l2": F.mse_loss}[name](images, originals, reduction="none")
    return (weights * by_pixel).mean()


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the discriminator's loss, scalar float32: real patches are pushed above 1, reconstructed ones below -1."""
    return (F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean()) / 2


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Return the autoencoder's adversarial loss, scalar float32: the discriminator should take its patches for real."""
    return -fake_logits.float().mean()


def adaptive_weight(reconstruction_loss: Tensor, adversarial_loss: Tensor, last_layer: Tensor) -> Tensor:
    """Return the weight, scalar without gradient, at which both losses move the decoder's last layer equally.

    λ = ||∇ L_rec|| / (||∇ L_adv|| + δ), Esser et al. 2021, eq. 7. Both losses must depend on `last_layer`; their
    graphs are kept. With several processes, it uses the gradients' means. Multiply by the user's own weight.
    """
    gradients = []
    for loss in (reconstruction_loss, adversarial_loss):
        # Of a mean over many pixels, a gradient may be below what float16 holds on its way.
        (gradient,) = torch.autograd.grad(loss * _SCALE, last_layer, retain_graph=True)
        gradients.append(processes.all_reduce_mean(gradient.float() / _SCALE).norm())
    weight = gradients[0] / (gradients[1] + 1e-6)
    return weight.clamp(0, _LARGEST_WEIGHT).detach()
