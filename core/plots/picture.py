"""The files of plots: marked as ours, so that no other file is overwritten."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from .. import files
from ..errors import ConfigError

_KEY, _MARK = "Software", "ldm plot"


def claim_picture(path: Path) -> None:
    """Make the folder of a picture, and refuse to overwrite what `write_picture` did not write.

    Raises ConfigError naming the path.
    """
    if path.exists() and not _is_ours(path):
        raise ConfigError(f"`out={path}` exists and was not drawn by {_MARK}", "name another file, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 (H, W, 3) as a marked PNG, whole or not at all; the same pixels give the same bytes."""
    mark = PngInfo()
    mark.add_text(_KEY, _MARK)
    image = Image.fromarray(pixels)
    files.write_atomically(path, lambda temporary: image.save(temporary, format="PNG", optimize=True, pnginfo=mark))


def _is_ours(path: Path) -> bool:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get(_KEY) == _MARK
    except (UnidentifiedImageError, OSError):
        return False
