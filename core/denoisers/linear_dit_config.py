"""The diffusion transformer with linear attention as settings: its shape, its named sizes. Imports no torch."""

from typing import Any, ClassVar, Literal

from ..errors import ConfigError
from ..settings.fields import option
from .text_config import TextDenoiserConfig
from .transformer_config import TransformerConfig

PRESETS: dict[str, dict[str, Any]] = {
    # For latents on a CPU, and on a GPU; then those of Xie et al. 2024.
    "linear-dit-xs": {"width": 256, "depth": 6, "heads": 8, "cross_heads": 4, "patch_size": 1},
    "linear-dit-s": {"width": 384, "depth": 8, "heads": 12, "cross_heads": 6, "patch_size": 1},
    "sana-0.6b": {"width": 1152, "depth": 28, "heads": 36, "cross_heads": 16, "patch_size": 1},
    "sana-1.6b": {"width": 2240, "depth": 20, "heads": 70, "cross_heads": 20, "patch_size": 1},
}


class LinearDiTConfig(TextDenoiserConfig, TransformerConfig):
    """Shape of a DiT with linear attention, for latents of any size."""

    presets = PRESETS
    default_preset: ClassVar[str] = "linear-dit-xs"
    sizes: ClassVar[str] = "linear-dit-xs, linear-dit-s, sana-0.6b, sana-1.6b"

    attention: Literal["linear", "softmax"] = option(
        "linear",
        "Weights of the attention between latents: linear for many tokens, softmax, of normalised queries and keys, for"
        " few.",
    )
    cross_heads: int = option(..., "Heads of the attention to texts.", ge=1, le=4096)
    mlp_ratio: float = option(2.5, "Width inside the gated convolution over the width of the tokens.", gt=0, le=64)
    positions: float | None = option(
        None,
        "Add sine-cosine positions, this far apart, to the tokens; those of other sizes span as much.",
        gt=0,
        le=64,
    )

    def check(self) -> None:
        super().check()
        if not (self.takes_text or self.num_classes):
            raise ConfigError(
                "this network needs classes or captions, and these data have neither", "choose a dit preset"
            )
        if self.width % self.cross_heads:
            raise ConfigError(
                f"model.width {self.width} does not divide by model.cross_heads {self.cross_heads}", "choose others"
            )

    @property
    def hidden(self) -> int:
        """Channels inside the gated convolution."""
        return int(self.width * self.mlp_ratio)
