"""Settings of what families of autoencoders are made of: convolutional levels, a codebook. Imports no torch."""

from typing import Literal

from pydantic import Field

from ..errors import ConfigError
from ..settings.families import NetworkConfig
from ..settings.fields import option

_MOST_LEVELS = 5


class LevelsConfig(NetworkConfig):
    """Convolutional encoder and decoder; n multipliers shrink the side patch × 2^(n-1) times, 2 to 16.

    channels × channel_multipliers: width of each level from the finest down. num_decoder_blocks: per level, as many
    as the encoder's `num_res_blocks` if None. middle_blocks: two more at the lowest level. norm_groups: at most.
    """

    in_channels: int = Field(default=3, ge=1)
    channels: int = option(32, "Width of the finest level.", ge=1)
    channel_multipliers: tuple[int, ...] = option(
        (1, 2, 4), "Width of each of n levels; they shrink images patch x 2^(n-1) times."
    )
    patch: int = option(1, "Pixels per side that the first layer folds into channels.", ge=1)
    num_res_blocks: int = option(2, "Residual blocks per level.", ge=1, le=64)
    num_decoder_blocks: int | None = option(None, "Residual blocks per level of the decoder.", ge=1, le=64)
    middle_blocks: bool = option(False, "Residual blocks at the lowest resolution.")
    attention: bool = option(False, "Self-attention at the lowest resolution.")
    norm_groups: int = Field(default=8, ge=1)
    latent_channels: int = option(4, "Channels of the latent.", "--latent-channels", ge=1)

    def check(self) -> None:
        if self.patch not in (1, 2, 4):
            raise ConfigError(f"model.patch is {self.patch}", "take 1, 2 or 4")
        if any(multiplier < 1 for multiplier in self.channel_multipliers):
            raise ConfigError(f"model.channel_multipliers is {self.channel_multipliers}", "take positive numbers")
        if not (1 <= len(self.channel_multipliers) <= _MOST_LEVELS and 2 <= self.downsampling <= 16):
            raise ConfigError(
                f"model.channel_multipliers {list(self.channel_multipliers)} with model.patch {self.patch} do not"
                " shrink images 2, 4, 8 or 16 times",
                "take another number of levels: n of them shrink patch × 2^(n-1) times",
            )
        super().check()

    @property
    def downsampling(self) -> int:
        """How many times the side of images shrinks."""
        return self.patch * 2 ** max(len(self.channel_multipliers) - 1, 0)

    @property
    def widths(self) -> list[int]:
        """Channels from the finest level down, each level half the side of the one before."""
        return [self.channels * multiplier for multiplier in self.channel_multipliers]

    @property
    def blocks_widen(self) -> bool:
        """Whether a level's first block changes the width, as published, and not the resampler before it."""
        return False

    @property
    def attends_in_blocks(self) -> bool:
        """Whether self-attention follows each block of the lowest level."""
        return False

    @property
    def decoder_blocks(self) -> int:
        """Residual blocks per level of the decoder."""
        return self.num_res_blocks if self.num_decoder_blocks is None else self.num_decoder_blocks


class CodebookConfig(NetworkConfig):
    """A codebook of `codebook_size` vectors of `latent_channels`.

    codebook: "ema" follows the assigned vectors with `ema_decay` per update, "gradient" is trained by the loss.
    cosine: vectors and codes lie on the unit sphere. dead_code_threshold: a code whose moving share of the vectors
    falls below this fraction of an even share is replaced by a vector of the batch; 0 never does.
    """

    latent_channels: int = option(4, "Channels of the latent.", "--latent-channels", ge=1)
    codebook_size: int = option(1024, "Codes that a latent pixel can be.", "--codebook-size", ge=2)
    codebook: Literal["ema", "gradient"] = "ema"
    cosine: bool = option(False, "Choose codes by cosine similarity.")
    ema_decay: float = option(0.99, "Decay of the codebook's EMA.", ge=0, lt=1)
    commitment: float = option(0.25, "Weight of the commitment term, on the encoder.", ge=0)
    dead_code_threshold: float = Field(default=0.1, ge=0, lt=1)

    def check(self) -> None:
        if self.cosine and self.latent_channels < 2:  # a sphere of one dimension has only two points
            raise ConfigError(f"model.latent_channels is {self.latent_channels}", "take 2 or more with model.cosine")
        super().check()
