"""The deep-compression autoencoder as settings: its named sizes. Imports no torch."""

import itertools
from typing import Any, ClassVar, Literal

from pydantic import Field

from ..errors import ConfigError
from ..settings.families import NetworkConfig
from ..settings.fields import option

_PUBLISHED: dict[str, Any] = {"channels": 128, "attention_levels": 3, "batch_norm_levels": 3}
PRESETS: dict[str, dict[str, Any]] = {
    # 8x and 16x, for 64 to 128 pixels on a CPU
    "dc-f8-s": {"channel_multipliers": (1, 2, 4, 4), "encoder_depths": (0, 2, 2, 2), "latent_channels": 8},
    "dc-f16-s": {"channel_multipliers": (1, 2, 4, 4, 8), "encoder_depths": (0, 2, 2, 2, 2), "latent_channels": 32},
    # those of Chen et al. 2024, and of Sana 1.0
    "dc-f32": {
        **_PUBLISHED,
        "channel_multipliers": (1, 2, 4, 4, 8, 8),
        "encoder_depths": (0, 4, 8, 2, 2, 2),
        "decoder_depths": (0, 5, 10, 2, 2, 2),
        "latent_channels": 32,
    },
    "dc-f64": {
        **_PUBLISHED,
        "channel_multipliers": (1, 2, 4, 4, 8, 8, 16),
        "encoder_depths": (0, 4, 8, 2, 2, 2, 2),
        "decoder_depths": (0, 5, 10, 2, 2, 2, 2),
        "attention_levels": 4,
        "latent_channels": 128,
    },
    "dc-f32-sana": {
        "channels": 128,
        "channel_multipliers": (1, 2, 4, 4, 8, 8),
        "encoder_depths": (2, 2, 2, 3, 3, 3),
        "decoder_depths": (3, 3, 3, 3, 3, 3),
        "attention_levels": 3,
        "attention_scales": (5,),
        "resampling": "convolution",
        "latent_channels": 32,
    },
}


class DCConfig(NetworkConfig):
    """Size of a deep-compression autoencoder; n levels shrink the side 2^(n-1) times.

    encoder_depths, decoder_depths: blocks of each level from the finest down; 0 at the finest leaves that level to the
    first and the last layer. attention_scales: sizes of the kernels that aggregate queries, keys and values once more.
    """

    presets = PRESETS
    default_preset: ClassVar[str] = "dc-f8-s"
    sizes: ClassVar[str] = "dc-f8-s, dc-f16-s, dc-f32, dc-f64, dc-f32-sana"

    in_channels: int = Field(default=3, ge=1)
    channels: int = option(32, "Width of the finest level.", ge=1)
    channel_multipliers: tuple[int, ...] = option(
        (1, 2, 4, 4), "Width of each of n levels, which shrink 2^(n-1) times."
    )
    encoder_depths: tuple[int, ...] = option((0, 2, 2, 2), "Blocks of each level of the encoder.")
    decoder_depths: tuple[int, ...] | None = option(None, "Blocks of each level of the decoder; the encoder's if null.")
    attention_levels: int = option(1, "Levels, from the lowest up, whose blocks have linear attention.", ge=0)
    attention_scales: tuple[int, ...] = option((), "Sizes of further kernels around the attention's inputs, odd.")
    head_width: int = Field(default=32, ge=1)
    batch_norm_levels: int = option(0, "Finest levels of the decoder that have BatchNorm and ReLU.", ge=0)
    resampling: Literal["pixels", "convolution"] = option(
        "pixels", "pixels: fold pixels into channels and back; convolution: with stride 2, and of repeated pixels."
    )
    shortcuts: bool = option(True, "Shortcuts without weights around resamplers and latents.")
    latent_channels: int = option(8, "Channels of the latent.", "--latent-channels", ge=1)

    def check(self) -> None:
        widths, num = self.widths, len(self.channel_multipliers)
        if num < 2 or any(each < 1 for each in self.channel_multipliers):
            raise ConfigError(f"model.channel_multipliers is {self.channel_multipliers}", "take two or more, positive")
        for name, depths in (("encoder_depths", self.encoder_depths), ("decoder_depths", self.depths_of_decoder)):
            if len(depths) != num or min(depths) < 0 or min(depths[1:]) < 1:
                raise ConfigError(f"model.{name} is {depths}", f"take {num} numbers, of which only the first may be 0")
        if bool(self.encoder_depths[0]) != bool(self.depths_of_decoder[0]):
            raise ConfigError(
                f"model.decoder_depths is {self.depths_of_decoder}", "begin with 0 where the encoder does"
            )
        if any(size % 2 == 0 for size in self.attention_scales):
            raise ConfigError(f"model.attention_scales is {self.attention_scales}", "take odd numbers")
        if self.attention_levels and any(width % self.head_width for width in widths[-self.attention_levels :]):
            raise ConfigError(f"model.channels is {self.channels}", f"take a multiple of {self.head_width}")
        if any(4 * fine % low for fine, low in itertools.pairwise(widths)) or widths[-1] % self.latent_channels:
            raise ConfigError(
                f"model.channel_multipliers {self.channel_multipliers} and model.latent_channels {self.latent_channels}"
                " leave no whole groups of channels to average",
                "take widths that divide 4 times the one before, and latent channels that divide the last",
            )
        super().check()

    @property
    def downsampling(self) -> int:
        """How many times the side of images shrinks."""
        return int(2 ** (len(self.channel_multipliers) - 1))

    @property
    def widths(self) -> list[int]:
        """Channels from the finest level down, each level half the side of the one before."""
        return [self.channels * multiplier for multiplier in self.channel_multipliers]

    @property
    def depths_of_decoder(self) -> tuple[int, ...]:
        """Blocks of each level of the decoder."""
        return self.encoder_depths if self.decoder_depths is None else self.decoder_depths
