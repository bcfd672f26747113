"""The next-scale transformer as settings: its shape, its named sizes. Imports no torch."""

from typing import Any, ClassVar

from pydantic import Field

from ..errors import ConfigError
from ..settings.families import NetworkConfig
from ..settings.fields import option

# Tian et al. 2024: d16 to d36-s; the smaller ones are ours.
PRESETS: dict[str, dict[str, Any]] = {
    f"var-d{depth}": {"depth": depth, "width": 64 * depth, "heads": depth} for depth in (2, 4, 6, 8, 12, 16, 20, 24, 30)
}
PRESETS["var-d36-s"] = {"depth": 36, "width": 64 * 36, "heads": 36, "shared_modulation": True}

_MOST_TOKENS = 1 << 16


class NextScaleConfig(NetworkConfig):
    """Shape of a next-scale transformer.

    scales, codebook_size, code_channels: of the codec whose tokens it predicts. num_classes: 0 for tokens without
    labels. label_dropout: only whether it is above 0 matters here: then there is a null class.
    """

    presets = PRESETS
    default_preset: ClassVar[str] = "var-d6"
    sizes: ClassVar[str] = "var-d2, d4, d6, d8, d12, d16, d20, d24, d30, d36-s"

    scales: tuple[int, ...]
    codebook_size: int = Field(ge=2)
    code_channels: int = Field(ge=1, le=4096)
    num_classes: int = Field(default=0, ge=0, le=10_000_000)
    label_dropout: float = Field(default=0.1, ge=0, lt=1)

    depth: int = option(..., "Blocks.", ge=1, le=1024)
    width: int = option(..., "Width of the tokens.", ge=4, le=65_536)
    heads: int = option(..., "Attention heads.", ge=1, le=4096)
    mlp_ratio: float = option(4.0, "Width of the MLP over the width of the tokens.", gt=0, le=64)
    qk_norm: bool = option(True, "Normalise queries and keys, with a learned scale for each head.")
    shared_modulation: bool = option(False, "One modulation for all blocks, and an offset for each.")
    drop_path: float | None = option(
        None, "Share of samples that skip the last block; earlier ones less. By default 0.1 x depth / 24.", ge=0, lt=1
    )

    def check(self) -> None:
        if not self.scales or any(a >= b for a, b in zip((0, *self.scales), self.scales, strict=False)):
            raise ConfigError(f"scales is {list(self.scales)}", "take sides that grow, as in 1,2,3,4")
        if self.num_tokens > _MOST_TOKENS:
            raise ConfigError(f"{self.num_tokens:,} tokens are too many", f"stay below {_MOST_TOKENS:,}")
        if self.width % self.heads:
            raise ConfigError(f"model.width {self.width} does not divide by model.heads {self.heads}", "choose others")

    @property
    def has_null(self) -> bool:
        """Whether there is a null class."""
        return self.label_dropout > 0

    @property
    def tokens_of_scale(self) -> tuple[int, ...]:
        """How many tokens each scale has."""
        return tuple(side * side for side in self.scales)

    @property
    def num_tokens(self) -> int:
        """Tokens of all scales."""
        return sum(self.tokens_of_scale)

    @property
    def num_blocks(self) -> int:
        """The number of blocks."""
        return self.depth

    @property
    def drop_rates(self) -> list[float]:
        """The share of samples that skip each block's two sums, growing over the depth."""
        most = 0.1 * self.depth / 24 if self.drop_path is None else self.drop_path
        return [most * i / max(self.depth - 1, 1) for i in range(self.depth)]
