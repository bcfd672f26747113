"""Pictures decoded from the prior of a codec's latents, drawn while it is trained."""

from pathlib import Path

import numpy as np
import torch

from ... import seeds
from ...autoencoders.codec import Autoencoder
from ...images.decode import as_tensor, as_uint8, write_png
from ...images.grid import grid, scale_for
from ...images.loader import ImageLoader
from ...images.order import spread
from ...system.precision import Policy

_FITTED_IMAGES = 512


@torch.no_grad()
def write_prior_samples(
    autoencoder: Autoencoder, images: ImageLoader, count: int, policy: Policy, folder: Path, images_seen: int
) -> None:
    """Write `count` images decoded from latents of N(0, I), above those of a Gaussian fitted to the latents of images.

    Of a codec without a random posterior, write nothing. The fitted Gaussian has the mean and the full covariance of
    up to 512 held-out images' posterior means: what the prior would have to be.
    """
    codec = autoencoder.codec
    means = []
    for _, pixels in images.in_turn(64, spread(len(images), _FITTED_IMAGES)):
        with policy.autocast():
            posterior = codec.encode(as_tensor(pixels).to(policy.device))
        if posterior.std is None:
            return
        means.append(posterior.mean.float().cpu())
    latents = torch.cat(means)

    # Σ ε_n (μ_n − μ) / √N has the covariance of the N latents, which need not be computed.
    mean, chosen = latents.mean(dim=0), np.arange(count)
    weights = seeds.normal(0, "fitted prior", chosen, (len(latents),)) / len(latents) ** 0.5
    fitted = mean + torch.einsum("kn,n...->k...", weights, latents - mean)
    standard = seeds.normal(0, "prior", chosen, tuple(mean.shape))
    with policy.autocast():
        decoded = codec.decode(torch.cat([standard, fitted]).to(policy.device))
    shown = as_uint8(decoded.float().clamp(-1, 1).cpu())
    picture = grid(shown, columns=count, row_labels=["N(0, I)", "fitted"], scale=scale_for(shown))
    (folder / "prior").mkdir(exist_ok=True)
    write_png(folder / "prior" / f"{images_seen:010d}.png", picture)
