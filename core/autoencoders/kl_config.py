"""The KL autoencoder as settings: its named sizes. Imports no torch."""

from typing import Any, ClassVar, Literal

from ..errors import ConfigError
from ..settings.fields import option
from .parts_config import LevelsConfig

_PUBLISHED = {
    "layout": "published",
    "channels": 128,
    "num_decoder_blocks": 3,
    "middle_blocks": True,
    "attention": True,
    "quant_convs": True,
    "norm_groups": 32,
}
PRESETS: dict[str, dict[str, Any]] = {
    # 4x, for 28 to 32 pixels on a CPU
    "kl-f4-xs": {"channels": 16, "channel_multipliers": (2, 3), "patch": 2, "num_res_blocks": 1},
    # 4x and 8x, for 32 to 128 pixels on a CPU
    "kl-f4-s": {"channels": 64, "channel_multipliers": (1, 2), "patch": 2, "num_res_blocks": 1},
    "kl-f8-s": {
        "channels": 48,
        "channel_multipliers": (1, 2, 3),
        "patch": 2,
        "num_res_blocks": 1,
        "middle_blocks": True,
    },
    # 16x, for digits on a CPU
    "kl-f16-s": {
        "channels": 32,
        "channel_multipliers": (1, 2, 3, 4),
        "patch": 2,
        "num_res_blocks": 1,
        "middle_blocks": True,
        "latent_channels": 8,
    },
    # those of Rombach et al. 2022
    "kl-f4": {**_PUBLISHED, "channel_multipliers": (1, 2, 4), "latent_channels": 3},
    "kl-f8": {**_PUBLISHED, "channel_multipliers": (1, 2, 4, 4)},
    "kl-f16": {**_PUBLISHED, "channel_multipliers": (1, 1, 2, 2, 4), "level_attention": True, "latent_channels": 16},
}


class KLConfig(LevelsConfig):
    """Size of a KL autoencoder.

    kl_weight: in the convention of the paper, where the divergence is summed over a latent and the error over an image:
    1e-6 there, 1 for a variational autoencoder (Kingma & Welling 2014).
    """

    presets = PRESETS
    default_preset: ClassVar[str] = "kl-f4-s"
    sizes: ClassVar[str] = "kl-f4-xs, kl-f4-s, kl-f8-s, kl-f16-s, kl-f4, kl-f8, kl-f16"

    layout: Literal["fast", "published"] = option(
        "fast", "published: the layers of Rombach et al. 2022; fast: those of the VQ-VAE here."
    )
    quant_convs: bool = option(False, "A 1x1 convolution on both sides of the latents.")
    level_attention: bool = option(False, "Self-attention after each block at the lowest resolution.")
    kl_weight: float = option(
        1e-6,
        "Weight of the KL divergence, sums against sums; 1 is a plain variational autoencoder.",
        "--kl-weight",
        ge=0,
    )

    def check(self) -> None:
        if self.layout == "published" and self.patch > 1:
            raise ConfigError(f"model.patch is {self.patch}", "take 1, or model.layout=fast")
        if self.layout == "fast" and self.level_attention:
            raise ConfigError("model.level_attention is true", "take model.layout=published with it")
        super().check()

    @property
    def blocks_widen(self) -> bool:
        """Whether a level's first block changes the width, as published, and not the resampler before it."""
        return self.layout == "published"

    @property
    def attends_in_blocks(self) -> bool:
        """Whether self-attention follows each block of the lowest level."""
        return self.level_attention
