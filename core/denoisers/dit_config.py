"""The diffusion transformer as settings: its shape, its limits, its named sizes. Imports no torch."""

from typing import Any, ClassVar

from pydantic import Field

from ..errors import ConfigError
from ..settings.fields import option
from .config import DenoiserConfig

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

_MAX_TOKENS = 1 << 20
_MAX_POSITIONS = 1 << 25  # numbers in the table of positions, which does not depend on the weights


class DiTConfig(DenoiserConfig):
    """Shape of a DiT. frequency_shift: see TimestepEmbedding; 1 exports to diffusers, 0 is the DiT authors'."""

    presets = PRESETS
    default_preset: ClassVar[str] = "dit-s/2"
    sizes: ClassVar[str] = "dit-xs, DiT-S/2 … DiT-XL/2"

    patch_size: int = option(..., "Latent pixels per token side.", ge=1, le=1024)
    width: int = option(..., "Width of the tokens.", ge=4, le=65_536)
    depth: int = option(..., "Blocks.", ge=1, le=1024)
    heads: int = option(..., "Attention heads.", ge=1, le=4096)
    mlp_ratio: float = option(4.0, "Width of the MLP over the width of the tokens.", gt=0, le=64)
    qk_norm: bool = option(False, "Normalise queries and keys.")
    rope: bool = option(False, "Rotary instead of added positions.")
    swiglu: bool = option(False, "SwiGLU instead of GELU.")
    rmsnorm: bool = option(False, "RMSNorm instead of LayerNorm.")
    frequencies: int = Field(default=256, ge=4, le=65_536, multiple_of=2)
    frequency_shift: int = Field(default=1, ge=0, le=1)

    def check(self) -> None:
        height, width = self.size
        if min(height, width) < 1 or height % self.patch_size or width % self.patch_size:
            raise ConfigError(
                f"latents of {height} x {width} do not divide into patches of {self.patch_size}",
                "choose another patch_size, or an image size and downsampling that make it divide",
            )
        if self.num_tokens > _MAX_TOKENS or self.num_tokens * self.width > _MAX_POSITIONS:
            most = min(_MAX_TOKENS, _MAX_POSITIONS // self.width)
            raise ConfigError(f"{self.num_tokens:,} tokens are too many", f"stay below {most:,} at this width")
        if self.width % self.heads or self.width % 4:
            raise ConfigError(
                f"model.width {self.width} does not divide by 4 and by model.heads {self.heads}", "choose others"
            )
        if self.rope and (self.width // self.heads) % 4:
            raise ConfigError(
                f"rope on heads of width {self.width // self.heads}", "choose a width that gives them a multiple of 4"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.size[0] // self.patch_size, self.size[1] // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens per latent."""
        return self.grid[0] * self.grid[1]

    @property
    def num_blocks(self) -> int:
        return self.depth
