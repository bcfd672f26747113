"""The families of denoisers: one line each. Imports no torch."""

from ..settings.families import Family
from .dit_config import DiTConfig
from .linear_dit_config import LinearDiTConfig
from .mmdit_config import MMDiTConfig
from .mnist_unet_config import MnistUNetConfig
from .text_dit_config import TextDiTConfig
from .unet_config import UNetConfig

FAMILIES: dict[str, Family] = {
    "dit": Family(DiTConfig, "dit:DiT", exporter="transformer"),
    "mmdit": Family(MMDiTConfig, "mmdit:MMDiT", exporter="sd3"),
    "dit-text": Family(TextDiTConfig, "text_dit:TextDiT"),
    "linear-dit": Family(LinearDiTConfig, "linear_dit:LinearDiT", exporter="sana"),
    "unet": Family(UNetConfig, "unet:UNet", exporter="unet"),
    "unet-mnist": Family(MnistUNetConfig, "mnist_unet:MnistUNet"),
}
