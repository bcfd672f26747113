"""The multimodal diffusion transformer as settings: its shape, its named sizes. Imports no torch."""

from typing import Any, ClassVar

from ..errors import ConfigError
from ..settings.fields import option
from .text_config import TextDenoiserConfig
from .transformer_config import TransformerConfig


def _of(depth: int, width: int, patch: int = 2, **more: Any) -> dict[str, Any]:
    """Return a size with heads of 64."""
    return {"width": width, "depth": depth, "heads": width // 64, "patch_size": patch, **more}


def _published(depth: int, **more: Any) -> dict[str, Any]:
    """Return a size of Esser et al. 2024, whose one number is its depth and its heads; positions as SD3 has them."""
    return _of(depth, 64 * depth, **{"qk_norm": False, "position_side": 192, **more})


PRESETS: dict[str, dict[str, Any]] = {
    # For latents on a CPU; the last one for a GPU.
    "mmdit-xs": _of(6, 256),
    "mmdit-xs/1": _of(6, 256, 1),
    "mmdit-s": _of(8, 384),
    "mmdit-b": _of(12, 768),
    **{f"mmdit-d{depth}": _published(depth) for depth in (15, 18, 21, 30, 38)},
    "sd3-medium": _published(24),
    "sd3.5-medium": _published(24, qk_norm=True, dual=13, position_side=384),
    "sd3.5-large": _published(38, qk_norm=True),
}


class MMDiTConfig(TextDenoiserConfig, TransformerConfig):
    """Shape of an MM-DiT.

    Positions are those of the centre of a square table, so that latents of another size keep theirs.
    """

    presets = PRESETS
    default_preset: ClassVar[str] = "mmdit-xs"
    sizes: ClassVar[str] = "mmdit-xs … mmdit-d38, sd3-medium, sd3.5-large"

    qk_norm: bool = option(True, "Normalise queries and keys.")
    dual: int = option(0, "The first so many blocks have a second attention, between latents alone.", ge=0, le=1024)
    position_side: int = option(64, "Rows and columns of the table of positions.", ge=1, le=65_536)
    position_base: int = option(64, "What the table spans, in units of the positions.", ge=1, le=65_536)

    def check(self) -> None:
        super().check()
        if not (self.takes_text or self.num_classes):
            raise ConfigError("an MM-DiT needs classes or captions, and these data have neither", "choose a dit preset")
        if self.dual > self.depth:
            raise ConfigError(f"dual is {self.dual}, of {self.depth} blocks", f"give {self.depth} at most")
