"""The diffusion transformer as settings: its shape, its limits, its named sizes. Imports no torch."""

from typing import Any, ClassVar

from pydantic import Field

from ..errors import ConfigError
from ..settings.fields import option
from .transformer_config import TransformerConfig

# Peebles & Xie 2023, table 1; the smallest two are ours.
_SIZES = {"ti": (192, 12, 3), "s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}

PRESETS: dict[str, dict[str, Any]] = {
    "dit-xs": {"width": 192, "depth": 6, "heads": 3, "patch_size": 2},
    **{
        f"dit-{size}/{patch}": {"width": width, "depth": depth, "heads": heads, "patch_size": patch}
        for size, (width, depth, heads) in _SIZES.items()
        for patch in (1, 2, 4, 8)
    },
}


class DiTConfig(TransformerConfig):
    """Shape of a DiT. frequency_shift: see TimestepEmbedding; 1 exports to diffusers, 0 is the DiT authors'."""

    presets = PRESETS
    default_preset: ClassVar[str] = "dit-s/2"
    sizes: ClassVar[str] = "dit-xs, DiT-S/2 … DiT-XL/2"

    mlp_ratio: float = option(4.0, "Width of the MLP over the width of the tokens.", gt=0, le=64)
    qk_norm: bool = option(False, "Normalise queries and keys.")
    rope: bool = option(False, "Rotary instead of added positions.")
    swiglu: bool = option(False, "SwiGLU instead of GELU.")
    rmsnorm: bool = option(False, "RMSNorm instead of LayerNorm.")
    frequencies: int = Field(default=256, ge=4, le=65_536, multiple_of=2)
    frequency_shift: int = Field(default=1, ge=0, le=1)

    def check(self) -> None:
        super().check()
        if self.rope and (self.width // self.heads) % 4:
            raise ConfigError(
                f"rope on heads of width {self.width // self.heads}", "choose a width that gives them a multiple of 4"
            )
