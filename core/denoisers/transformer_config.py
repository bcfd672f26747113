"""The shape of transformers over patches of latents, which several families share. Imports no torch."""

from ..errors import ConfigError
from ..settings.fields import option
from .config import DenoiserConfig

_MAX_TOKENS = 1 << 20
_MAX_POSITIONS = 1 << 25  # numbers in the table of positions, which does not depend on the weights


class TransformerConfig(DenoiserConfig):
    """Shape of a transformer over patches."""

    patch_size: int = option(..., "Latent pixels per token side.", ge=1, le=1024)
    width: int = option(..., "Width of the tokens.", ge=4, le=65_536)
    depth: int = option(..., "Blocks.", ge=1, le=1024)
    heads: int = option(..., "Attention heads.", ge=1, le=4096)

    def check(self) -> None:
        super().check()
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
