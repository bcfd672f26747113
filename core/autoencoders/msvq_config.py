"""The multi-scale residual VQ-VAE as settings: its named sizes. Imports no torch."""

from typing import Any, ClassVar

from pydantic import Field

from ..errors import ConfigError
from ..settings.fields import option
from .parts_config import CodebookConfig, LevelsConfig

PRESETS: dict[str, dict[str, Any]] = {
    # 8×, for 28 to 32 pixels on a CPU: 30 tokens
    "msvq-xs": {
        "channels": 32,
        "channel_multipliers": (1, 2, 2),
        "patch": 2,
        "num_res_blocks": 1,
        "codebook_size": 512,
        "latent_channels": 8,
        "scales": (1, 2, 3, 4),
    },
    # 8×, for 64 pixels on a CPU: 130 tokens
    "msvq-s": {
        "channels": 64,
        "channel_multipliers": (1, 2, 3),
        "patch": 2,
        "num_res_blocks": 1,
        "latent_channels": 16,
        "scales": (1, 2, 3, 4, 6, 8),
    },
    # 16×, for 256 pixels on a GPU: the scales, codes and channels of Tian et al. 2024
    "msvq-f16": {
        "channels": 64,
        "channel_multipliers": (1, 2, 4, 8),
        "patch": 2,
        "middle_blocks": True,
        "attention": True,
        "codebook_size": 4096,
        "latent_channels": 32,
        "scales": (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    },
}


_MOST_CODES = 1 << 16  # tokens are kept as uint16


class MSVQConfig(CodebookConfig, LevelsConfig):
    """Size, codebook and scales of a multi-scale VQ-VAE.

    scales: sides of the maps of tokens; the last is the latent's. num_mixers: convolutions that correct what was
    enlarged, each for neighbouring scales. mixing: their share of what is added to the latent. truncation: share of
    training images that are decoded from a random number of scales, so that the first ones mean something.
    """

    presets = PRESETS
    default_preset: ClassVar[str] = "msvq-s"
    sizes: ClassVar[str] = "msvq-xs or msvq-s (8x smaller), msvq-f16"

    scales: tuple[int, ...] = option((1, 2, 3, 4, 6, 8), "Sides of the maps of tokens, from coarse to the latent's.")
    num_mixers: int = Field(default=4, ge=1, le=64)
    mixing: float = Field(default=0.5, ge=0, le=1)
    truncation: float = option(0.1, "Share of training images decoded from a random number of scales.", ge=0, le=1)

    def check(self) -> None:
        if not self.scales or any(a >= b for a, b in zip((0, *self.scales), self.scales, strict=False)):
            raise ConfigError(f"model.scales is {list(self.scales)}", "take sides that grow, as in 1,2,3,4")
        if self.scales[-1] > 1024:
            raise ConfigError(f"model.scales ends at {self.scales[-1]}", "stay at or below 1024")
        if self.codebook_size > _MOST_CODES:
            raise ConfigError(f"model.codebook_size is {self.codebook_size:,}", f"stay at or below {_MOST_CODES:,}")
        if self.cosine:
            raise ConfigError("model.cosine is set", "leave it out: the residuals of scales differ in length")
        super().check()

    @property
    def mixer_of_scale(self) -> list[int]:
        """Which mixer corrects each scale: the nearest of evenly spread places (Tian et al. 2024)."""
        count, last = self.num_mixers, max(len(self.scales) - 1, 1)
        # As the published code has them: four stand at 1/12 … 11/12, other numbers at 1/2n … 1 - 1/2n.
        first = 1 / (3 * count) if count == 4 else 1 / (2 * count)
        places = [first + (1 - 2 * first) * i / max(count - 1, 1) for i in range(count)]
        # Between two places, the later one.
        return [
            min(range(count), key=lambda i: (round(abs(places[i] - k / last), 9), -i)) for k in range(len(self.scales))
        ]
