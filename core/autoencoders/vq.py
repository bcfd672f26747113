"""The VQ-VAE: a convolutional autoencoder with a quantised latent (van den Oord et al. 2017; Esser et al. 2021).

The latents that are diffused are those before quantisation, as in Rombach et al. 2022 (Latent Diffusion): decoding
quantises first.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..distributed import processes
from .blocks import ConfiguredCodec, Decoder, Encoder, channels_last, parts_around, rotate_between
from .codec import Between, Draws, Posterior, Reconstruction, untouched
from .quantizers import Assignment, Quantizer, perplexity, usage
from .vq_config import VQVAEConfig


class VQVAE(ConfiguredCodec):
    """Encoder, quantiser, decoder; a `TrainableCodec` and a `TokenCodec` of one map."""

    kind = "vqvae"
    latent_sides = None
    synchronous = True  # The codebook moves.

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, config.latent_channels)
        self.quantizer = Quantizer(config)
        self.decoder = Decoder(config)
        channels_last(self)

    @property
    def num_tokens(self) -> int:
        return self.config.codebook_size

    def encode(self, images: Tensor) -> Posterior:
        """Return the latents before quantisation, float32 (B, C, h, w), which are not random."""
        return Posterior(self.quantizer.project(self.encoder(images)))

    def decode(self, latents: Tensor) -> Tensor:
        """Quantise latents (B, C, h, w) and decode them."""
        return self.decoder(self.quantizer.lookup(latents))

    def tokens(self, images: Tensor) -> list[Tensor]:
        """Return one map of the codes' numbers, int64 (B, h, w)."""
        return [self.quantizer(self.encode(images).mean).indices]

    def from_tokens(self, tokens: Sequence[Tensor]) -> Tensor:
        """Return the codes (B, C, h, w) of a map."""
        return self.quantizer.embed(tokens[0])

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.conv_out.weight

    @property
    def parts(self) -> Mapping[str, Sequence[nn.Module]]:
        return parts_around(self, self.encoder, self.decoder)

    @property
    def compile_units(self) -> Sequence[nn.Module]:
        return self.encoder, self.decoder

    def forward(self, images: Tensor, draws: Draws | None = None, between: Between = untouched) -> Reconstruction:
        """Reconstruct images (B, 3, H, W) in [-1, 1]; the codebook does not change, and no draw is made."""
        quantised = self.quantizer(between(self.encode(images).mean))
        numbers = {"perplexity": perplexity(quantised.counts), "usage": usage(quantised.counts)}
        return Reconstruction(self.decoder(quantised.latents), quantised.loss, numbers, quantised.assignment)

    @torch.no_grad()
    def initialise(self, images: Tensor, draws: Draws) -> None:
        """Place the codes among the latents of images (B, 3, H, W)."""
        latents = self.encode(images).mean
        self.quantizer.initialise(latents.movedim(1, -1).flatten(0, -2), draws.generator("codebook"))

    def after_step(self, observed: Sequence[Assignment], draws: Draws) -> None:
        """Move the codebook by the vectors of all processes, unless the encoder is frozen."""
        if not self.encoder.conv_out.weight.requires_grad:
            return
        gather = processes.all_gather_rows
        everyones = [Assignment(gather(each.vectors), gather(each.indices)) for each in observed]
        self.quantizer.update(everyones, draws.generator("dead codes"))
        processes.broadcast_from_main(self.quantizer.state_dict().values())

    def summarise(self, observed: Sequence[Assignment]) -> dict[str, float]:
        """Return the codebook's use over all batches."""
        indices = torch.cat([each.indices for each in observed]).cpu()
        counts = torch.bincount(indices, minlength=self.config.codebook_size)
        return {"usage": float(usage(counts)), "perplexity": float(perplexity(counts))}

    def rotate(self, rotation: Tensor) -> bool:
        """Rotate the codes, and the latent space between the encoder's end and the decoder's start."""
        self.quantizer.rotate(rotation)
        rotate_between(self.encoder.conv_out, self.decoder.conv_in, rotation)
        return True
