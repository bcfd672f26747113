"""The diffusion transformer with a text as settings: where the text goes, and the named sizes. Imports no torch."""

from typing import Any, ClassVar, Literal

from ..errors import ConfigError
from ..settings.fields import option
from .dit_config import DiTConfig
from .text_config import TextDenoiserConfig

# Width, and blocks with the text in the sequence and with cross-attention: about as many parameters as an MM-DiT of 6,
# 8 and 12 blocks of that width has, since a block has 18, 22 and 36 times the square of the width (Esser et al. 2024
# compare the three so).
_SIZES = {"xs": (256, 12, 10), "s": (384, 16, 13), "b": (768, 24, 20)}

PRESETS: dict[str, dict[str, Any]] = {
    f"dit-{name}-{size}": {
        "text": text,
        "width": width,
        "depth": depth,
        "heads": width // 64,
        "patch_size": 2,
        "qk_norm": True,
    }
    for size, (width, *depths) in _SIZES.items()
    for (name, text), depth in zip((("text", "sequence"), ("cross", "cross")), depths, strict=True)
}


class TextDiTConfig(TextDenoiserConfig, DiTConfig):
    """Shape of a DiT that takes a text."""

    presets = PRESETS
    default_preset: ClassVar[str] = "dit-text-xs"
    sizes: ClassVar[str] = "dit-text-xs … dit-cross-b"

    text: Literal["sequence", "cross"] = option(
        "sequence", "Tokens of the text: in the sequence of the image's, or attended to by each block."
    )

    def check(self) -> None:
        super().check()
        if not (self.takes_text or self.num_classes):
            raise ConfigError(
                "this network needs classes or captions, and these data have neither", "choose a dit preset"
            )
