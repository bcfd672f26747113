"""The named sizes of networks, as settings. Imports no torch, so that names are checked and offered without it."""

import difflib
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError

AUTOENCODERS: dict[str, dict[str, Any]] = {
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

# Peebles & Xie 2023, table 1; the smallest two are ours.
_SIZES = {"ti": (192, 12, 3), "s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}

DENOISERS: dict[str, dict[str, Any]] = {
    "dit-xs": {"width": 192, "depth": 6, "heads": 3, "patch_size": 2},
    **{
        f"dit-{size}/{patch}": {"width": width, "depth": depth, "heads": heads, "patch_size": patch}
        for size, (width, depth, heads) in _SIZES.items()
        for patch in (1, 2, 4, 8)
    },
}


def settings_of(name: str, presets: Mapping[str, dict[str, Any]], family: str) -> dict[str, Any]:
    """Return the settings of a named size, in any case: `DiT-S/2` is `dit-s/2`.

    Raises ConfigError naming the nearest for a name there is not.
    """
    if name.lower() not in presets:
        near = difflib.get_close_matches(name.lower(), presets, n=1)
        meant = f"did you mean {near[0]}?" if near else f"choose from {', '.join(presets)}"
        raise ConfigError(f"there is no {family} preset {name!r}", meant)
    return dict(presets[name.lower()])
