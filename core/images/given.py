"""Images that a user names one by one or by the folder, as one source."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import ConfigError, as_data_error
from ..files import read_plain
from ..progress import Progress
from .dataset import ImageSource, image_source, num_workers
from .listing import is_image
from .order import pieces
from .sources import open_source


def open_given(locations: Sequence[str]) -> ImageSource:
    """Open image files, and whatever else `open_source` opens, in the order of their names and without labels.

    Raises ConfigError where there are none, and DataError naming what is missing.
    """
    if not locations:
        raise ConfigError("no images given", "name files or folders: `images=photo.jpg`")
    names: list[str] = []
    readers: list[Callable[[], bytes | np.ndarray]] = []
    for location in locations:
        path = Path(location)
        if is_image(location) and not path.is_dir():
            names.append(location)
            readers.append(partial(_read, path))
        else:
            source = open_source(location)
            names += [f"{location.rstrip('/')}/{name}" for name in source.names]
            readers += [partial(source.read, index) for index in range(len(source))]
    return image_source("images", names, lambda row: readers[row](), None)


def _read(path: Path) -> bytes:
    with as_data_error(f"{path} cannot be read", "check its name"):
        return read_plain(path)


def require_readable(
    source: ImageSource, progress: Progress, check: Callable[[int, Image.Image], object] = lambda index, picture: None
) -> None:
    """Decode every image once, in parallel. Raises DataError naming the first that cannot be decoded.

    check: is given each image with its index, and raises DataError for one that cannot be used.
    """

    def read(index: int) -> None:
        check(index, source.picture(index))

    progress.start("reading images", len(source), "images")
    with ThreadPoolExecutor(num_workers()) as pool:
        for block in pieces(np.arange(len(source)), 256):
            for index, _ in zip(block, pool.map(read, block), strict=True):
                progress.update(int(index) + 1)
    progress.finish()
