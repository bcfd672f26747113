"""The VQ-VAE: a convolutional autoencoder with a quantised latent (van den Oord et al. 2017; Esser et al. 2021).

The latents that are diffused are those before quantisation, as in Rombach et al. 2022 (Latent Diffusion): decoding
quantises first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..distributed import processes
from ..errors import ConfigError
from .blocks import Decoder, Encoder, Levels, channels_last
from .codec import Draws, Posterior, Reconstruction
from .quantizers import Assignment, Quantizer, QuantizerConfig, perplexity, usage

_MOST_BLOCKS = 64
_MOST_LEVELS = 5


@dataclass(frozen=True)
class VQVAEConfig:
    """Size and quantiser of a VQ-VAE; n multipliers shrink the side patch × 2^(n-1) times, 2 to 16.

    channels × channel_multipliers: width of each level from the finest down. num_decoder_blocks: per level, as many
    as the encoder's `num_res_blocks` if None. The other fields are explained in `blocks.Levels` and
    `quantizers.QuantizerConfig`. Raises ConfigError for what cannot be built.
    """

    in_channels: int = 3
    channels: int = 32
    channel_multipliers: tuple[int, ...] = (1, 2, 4)
    patch: int = 1
    num_res_blocks: int = 2
    num_decoder_blocks: int | None = None
    middle_blocks: bool = False
    attention: bool = False
    norm_groups: int = 8
    latent_channels: int = 4
    codebook_size: int = 1024
    codebook: Literal["ema", "gradient"] = "ema"
    cosine: bool = False
    ema_decay: float = 0.99
    commitment: float = 0.25
    dead_code_threshold: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "channel_multipliers", tuple(self.channel_multipliers))
        smallest = 2 if self.cosine else 1  # on a sphere of one dimension nothing but a sign is left
        self._require("channel_multipliers", all(m >= 1 for m in self.channel_multipliers), "give positive numbers")
        self._require("patch", self.patch in (1, 2, 4), "give 1, 2 or 4")
        for name in ("in_channels", "channels", "norm_groups"):
            self._require(name, getattr(self, name) >= 1, "give 1 or more")
        self._require("num_res_blocks", 1 <= self.num_res_blocks <= _MOST_BLOCKS, f"give 1 to {_MOST_BLOCKS}")
        self._require(
            "num_decoder_blocks", 1 <= self.levels.decoder_blocks <= _MOST_BLOCKS, f"give 1 to {_MOST_BLOCKS}"
        )
        self._require("latent_channels", self.latent_channels >= smallest, f"give {smallest} or more")
        self._require("codebook_size", self.codebook_size >= 2, "give 2 or more")
        self._require("codebook", self.codebook in ("ema", "gradient"), "use ema or gradient")
        self._require("ema_decay", 0 <= self.ema_decay < 1, "give a number in [0, 1)")
        self._require("commitment", self.commitment >= 0, "give 0 or more")
        self._require("dead_code_threshold", 0 <= self.dead_code_threshold < 1, "give a number in [0, 1)")
        if not (1 <= len(self.channel_multipliers) <= _MOST_LEVELS and 2 <= self.downsampling <= 16):
            raise ConfigError(
                f"model.channel_multipliers {list(self.channel_multipliers)} with model.patch {self.patch} do not"
                " shrink images 2, 4, 8 or 16 times",
                "give another number of levels: n of them shrink patch × 2^(n-1) times",
            )

    def _require(self, name: str, holds: bool, remedy: str) -> None:
        if not holds:
            raise ConfigError(f"model.{name} is {getattr(self, name)!r}", remedy)

    @property
    def downsampling(self) -> int:
        return self.patch * 2 ** max(len(self.channel_multipliers) - 1, 0)

    @property
    def levels(self) -> Levels:
        return Levels(
            widths=tuple(self.channels * multiplier for multiplier in self.channel_multipliers),
            patch=self.patch,
            encoder_blocks=self.num_res_blocks,
            decoder_blocks=self.num_res_blocks if self.num_decoder_blocks is None else self.num_decoder_blocks,
            middle_blocks=self.middle_blocks,
            attention=self.attention,
            norm_groups=self.norm_groups,
        )

    @property
    def quantizer(self) -> QuantizerConfig:
        return QuantizerConfig(
            num_codes=self.codebook_size,
            dim=self.latent_channels,
            codebook=self.codebook,
            cosine=self.cosine,
            decay=self.ema_decay,
            commitment=self.commitment,
            dead_code_threshold=self.dead_code_threshold,
        )


class VQVAE(nn.Module):
    """Encoder, quantiser, decoder; a `TrainableCodec` and a `TokenCodec` of one map."""

    kind = "vqvae"
    latent_sides = None
    synchronous = True  # The codebook moves.

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.levels, config.in_channels, config.latent_channels)
        self.quantizer = Quantizer(config.quantizer)
        self.decoder = Decoder(config.levels, config.latent_channels, config.in_channels)
        channels_last(self)

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    @property
    def downsampling(self) -> int:
        return self.config.downsampling

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
        """All; what is next to the latents; the layers that give the images."""
        encoder, decoder = self.encoder, self.decoder
        middle = [encoder.middle, encoder.norm_out, encoder.conv_out, decoder.conv_in, decoder.middle]
        return {"all": [self], "middle": middle, "head": [decoder.norm_out, decoder.conv_out]}

    @property
    def compile_units(self) -> Sequence[nn.Module]:
        return self.encoder, self.decoder

    def forward(self, images: Tensor, draws: Draws | None = None) -> Reconstruction:
        """Reconstruct images (B, 3, H, W) in [-1, 1]; the codebook does not change, and no draw is made."""
        quantised = self.quantizer(self.encode(images).mean)
        numbers = {"perplexity": perplexity(quantised.counts), "usage": usage(quantised.counts)}
        return Reconstruction(self.decoder(quantised.latents), quantised.loss, numbers, quantised.assignment)

    @torch.no_grad()
    def initialise(self, images: Tensor, draws: Draws) -> None:
        """Place the codes among the latents of images (B, 3, H, W)."""
        latents = self.encode(images).mean
        self.quantizer.initialise(latents.movedim(1, -1).flatten(0, -2), draws.generator("codebook"))

    def after_step(self, observed: Sequence[Assignment], draws: Draws) -> None:
        """Move the codebook by the vectors of all processes, unless the encoder is kept as it is."""
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

    @torch.no_grad()
    def rotate(self, rotation: Tensor) -> bool:
        """Turn the latent space by an orthogonal matrix (C, C): the encoder's end, the codes, the decoder's start."""
        self.quantizer.rotate(rotation)
        end, start = self.encoder.conv_out, self.decoder.conv_in
        for of_end in (end.weight, end.bias):
            assert of_end is not None, "convolutions have a bias"
            of_end.copy_(torch.einsum("ij,j...->i...", rotation.to(of_end), of_end))
        start.weight.copy_(torch.einsum("ij,ojhw->oihw", rotation.to(start.weight), start.weight))
        return True

    def describe(self) -> Mapping[str, Any]:
        """Return the configuration, JSON."""
        return asdict(self.config) | {"channel_multipliers": list(self.config.channel_multipliers)}
