"""The KL autoencoder: a Gaussian posterior of latents, drawn towards N(0, I) (Rombach et al. 2022).

Per image, with mean μ and deviation σ of each latent value,

    KL(q(z | x) || N(0, I)) = Σ (μ² + σ² − 1 − log σ²) / 2

The loss adds `kl_weight` times that, divided by the number of values of the image: the pixel loss is a mean where the
paper has a sum, and so the weights of both compare as they do there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import ConfiguredCodec, Decoder, Encoder, channels_last, parts_around
from .codec import Between, Draws, Posterior, Reconstruction, untouched
from .kl_config import KLConfig

_LOG_VARIANCE = (-30.0, 20.0)


class KLAutoencoder(ConfiguredCodec):
    """Encoder to a posterior, decoder; a `TrainableCodec`."""

    kind = "kl"
    latent_sides = None
    synchronous = False

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.config, channels = config, config.latent_channels
        self.encoder = Encoder(config, 2 * channels)
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1) if config.quant_convs else nn.Identity()
        self.post_quant_conv = nn.Conv2d(channels, channels, 1) if config.quant_convs else nn.Identity()
        self.decoder = Decoder(config)
        channels_last(self)

    def encode(self, images: Tensor) -> Posterior:
        """Return mean and deviation of the posterior, float32 (B, C, h, w)."""
        mean, log_variance = self._moments(images)
        return Posterior(mean, (log_variance / 2).exp())

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (B, 3, H, W), not clamped, of latents (B, C, h, w)."""
        return self.decoder(self.post_quant_conv(latents))

    def forward(self, images: Tensor, draws: Draws | None = None, between: Between = untouched) -> Reconstruction:
        """Reconstruct images (B, 3, H, W) in [-1, 1] from a draw of the posterior, in validation from its mean."""
        mean, log_variance = self._moments(images)
        std, latents = (log_variance / 2).exp(), mean
        if draws is not None:
            latents = mean + std * draws.normal("posterior", tuple(mean.shape[1:])).to(mean)
        divergence = (mean.square() + std.square() - 1 - log_variance) / 2
        loss = self.config.kl_weight * divergence.flatten(1).sum(1).mean() / images[0].numel()
        means = torch.stack([each.detach().mean() for each in (divergence, mean, mean.square(), std)])
        numbers = {"kl_divergence": divergence.mean()}
        return Reconstruction(self.decode(between(latents)), loss, numbers, (len(images), means))

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.conv_out.weight

    @property
    def parts(self) -> Mapping[str, Sequence[nn.Module]]:
        between, after = [self.quant_conv, self.post_quant_conv], [self.post_quant_conv]
        return parts_around(self, self.encoder, self.decoder, between, after)

    @property
    def compile_units(self) -> Sequence[nn.Module]:
        return self.encoder, self.decoder

    def initialise(self, images: Tensor, draws: Draws) -> None:
        """Do nothing: no part starts from data."""

    def after_step(self, observed: Sequence[Any], draws: Draws) -> None:
        """Do nothing: only gradients change it."""

    def summarise(self, observed: Sequence[tuple[int, Tensor]]) -> dict[str, float]:
        """Return the divergence in nats per latent value, the deviation of μ over all values, and the mean σ."""
        counts = torch.tensor([float(count) for count, _ in observed])
        batches = torch.stack([means.cpu() for _, means in observed])
        kl, mean, square, sigma = (counts @ batches / counts.sum()).tolist()
        return {"kl_divergence": kl, "mu_std": max(square - mean**2, 0.0) ** 0.5, "sigma": sigma}

    def rotate(self, rotation: Tensor) -> bool:
        """Return False: there is no codebook."""
        return False

    def _moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the posterior, float32."""
        mean, log_variance = self.quant_conv(self.encoder(images)).float().chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOG_VARIANCE)
