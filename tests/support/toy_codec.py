"""A family of codecs of a few lines, with all that the VQ-VAE lacks: a random posterior, BatchNorm, no codebook."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ldm.core.autoencoders.codec import Between, Draws, Posterior, Reconstruction, untouched
from ldm.core.settings.families import NetworkConfig
from ldm.core.settings.fields import option


class ToyConfig(NetworkConfig):
    presets: ClassVar[dict[str, dict[str, Any]]] = {"toy-kl": {}}
    default_preset = "toy-kl"
    sizes = "toy-kl"

    divergence: float = option(0.5, "Weight of the divergence.", ge=0)
    side: Literal[4] = 4


class ToyKL(nn.Module):
    """Latents of 2 channels and of one size."""

    kind = "toy"
    downsampling = 4
    in_channels = 3
    latent_channels = 2
    synchronous = False

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config, self.latent_sides = config, (config.side,)
        self.encoder = nn.Conv2d(3, 4, 4, stride=4)
        self.norm = nn.BatchNorm2d(2)
        self.decoder = nn.ConvTranspose2d(2, 3, 4, stride=4)

    def encode(self, images: Tensor) -> Posterior:
        mean, log_variance = self.encoder(images).float().chunk(2, dim=1)
        return Posterior(mean, (log_variance / 2).exp())

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(self.norm(latents))

    def rotate(self, rotation: Tensor) -> bool:
        return False

    def describe(self) -> Mapping[str, Any]:
        return self.config.model_dump(mode="json")

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.weight

    @property
    def parts(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"all": [self], "middle": [self.encoder, self.norm], "decoder": [self.decoder], "head": [self.decoder]}

    @property
    def compile_units(self) -> Sequence[nn.Module]:
        return ()

    def forward(self, images: Tensor, draws: Draws | None = None, between: Between = untouched) -> Reconstruction:
        mean, std = self.encode(images)
        assert std is not None
        latents = mean
        if draws is not None:
            latents = mean + std * draws.normal("posterior", tuple(mean.shape[1:])).to(mean)
        kl = (mean.square() + std.square() - 1 - 2 * std.log()).mean() / 2
        return Reconstruction(self.decode(between(latents)), self.config.divergence * kl, {"kl": kl}, kl.detach())

    def initialise(self, images: Tensor, draws: Draws) -> None:
        with torch.no_grad():
            self.decoder.bias.copy_(images.mean(dim=(0, 2, 3)))

    def after_step(self, observed: Sequence[Tensor], draws: Draws) -> None:
        raise AssertionError("nothing follows a step")

    def summarise(self, observed: Sequence[Tensor]) -> dict[str, float]:
        return {"kl": float(torch.stack(list(observed)).mean())}
