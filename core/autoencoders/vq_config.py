"""The VQ-VAE as settings: its named sizes. Imports no torch."""

from typing import Any, ClassVar

from .parts_config import CodebookConfig, LevelsConfig

PRESETS: dict[str, dict[str, Any]] = {
    # 4×, for 28 to 32 pixels on a CPU
    "vqvae-xs": {"channels": 16, "channel_multipliers": (2, 3), "patch": 2, "num_res_blocks": 1, "codebook_size": 512},
    # 4×, for 32 to 64 pixels on a CPU
    "vqvae-s": {"channels": 64, "channel_multipliers": (1, 2), "patch": 2, "num_res_blocks": 1},
    # 4×, for 64 to 256 pixels on a GPU
    "vqvae-m": {
        "channels": 96,
        "channel_multipliers": (1, 2, 4),
        "num_decoder_blocks": 3,
        "middle_blocks": True,
        "codebook_size": 4096,
    },
    # 8×
    "vqvae-f8": {
        "channels": 64,
        "channel_multipliers": (1, 2, 4),
        "patch": 2,
        "middle_blocks": True,
        "codebook_size": 4096,
        "latent_channels": 8,
    },
    # 16×
    "vqvae-f16": {
        "channels": 64,
        "channel_multipliers": (1, 2, 4, 8),
        "patch": 2,
        "middle_blocks": True,
        "attention": True,
        "codebook_size": 16384,
        "latent_channels": 16,
    },
}


class VQVAEConfig(CodebookConfig, LevelsConfig):
    """Size and codebook of a VQ-VAE."""

    presets = PRESETS
    default_preset: ClassVar[str] = "vqvae-s"
    sizes: ClassVar[str] = "vqvae-xs, vqvae-s or vqvae-m (4x smaller), vqvae-f8, vqvae-f16"
