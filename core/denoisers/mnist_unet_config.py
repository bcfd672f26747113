"""The small U-Net of a course on digits as settings: its width, and what it is conditioned on. Imports no torch."""

from typing import ClassVar

from ..errors import ConfigError
from ..settings.fields import option
from .config import DenoiserConfig


class MnistUNetConfig(DenoiserConfig):
    """Shape of the U-Net of CS180 (project 5B, UC Berkeley). time_scale: 1, since the network sees t itself."""

    presets: ClassVar = {"unet-mnist": {"width": 64}, "unet-mnist-128": {"width": 128}}
    default_preset: ClassVar[str] = "unet-mnist"
    sizes: ClassVar[str] = "unet-mnist, unet-mnist-128"

    width: int = option(
        ..., "Channels of the widest maps; those of half and a quarter of the side have twice as many.", ge=1, le=4096
    )
    timed: bool = option(True, "Condition on the time; switch off for one noise level.")
    time_scale: float = 1.0

    def check(self) -> None:
        height, width = self.size
        if min(height, width) < 4 or height % 4 or width % 4:
            wanted = " x ".join(str(max(4, -(-side // 4) * 4)) for side in (height, width))
            raise ConfigError(
                f"images of {height} x {width} do not halve twice",
                f"the next size that does is {wanted}: set image_size",
            )
        if self.num_classes and not self.timed:
            raise ConfigError("a network without the time takes no classes", "train it without labels")

    @property
    def smallest(self) -> tuple[int, int]:
        """Height and width of the smallest maps before they are averaged to one vector."""
        return self.size[0] // 4, self.size[1] // 4
