"""Contact sheets: many images on one page, a row for each class or group, as training would see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ..errors import ConfigError, DataError
from ..images.dataset import ImageSource
from ..images.decode import Fit, to_training, write_png
from ..images.grid import grid, scale_for
from ..images.order import spread

_PAPER = 255


@dataclass(frozen=True)
class Strip:
    """Images that stand side by side, each uint8 (size, size, 3): a label left of them, and what stands below each."""

    label: str
    images: Sequence[np.ndarray]
    captions: Sequence[str] = ()


def class_strips(source: ImageSource, size: int, columns: int, rows: int) -> list[Strip]:
    """Choose at random, yet always alike, some images of each class; of more than `rows` classes some evenly spread.

    Images that cannot be decoded are passed over; a class without any has an empty row.
    """
    total = len(source.class_names)
    chosen = range(total) if total <= rows else np.linspace(0, total - 1, rows).round().astype(int)
    strips = []
    for label in map(int, chosen):
        members = np.flatnonzero(source.labels == label)
        squares = (square(source, int(index), size) for index in members[spread(len(members), len(members))])
        images = [*islice((image for image in squares if image is not None), columns)]
        strips.append(Strip(f"{source.class_names[label]} ({len(members):,})", images))
    return strips


def packed(strips: Sequence[Strip], columns: int, rows: int) -> list[Strip]:
    """Lay short strips, without labels, side by side with a gap between them, until `rows` of `columns` are full.

    None is broken over two rows; what is longer than a row is cut off.
    """
    lines: list[Strip] = []
    for strip in strips:
        images, captions = strip.images[:columns], strip.captions[:columns]
        if lines and len(lines[-1].images) + 1 + len(images) <= columns:
            gap = np.full_like(images[0], _PAPER)
            lines[-1] = Strip("", [*lines[-1].images, gap, *images], [*lines[-1].captions, "", *captions])
        else:
            lines.append(Strip("", images, captions))
    return lines[:rows]


def square(source: ImageSource, index: int, size: int, fit: Fit = "crop") -> np.ndarray | None:
    """Return an image at the size of training, uint8 (size, size, 3); None where it cannot be decoded."""
    try:
        return to_training(source.picture(index), size, fit)
    except DataError:
        return None


def write_sheet(path: Path, strips: Sequence[Strip]) -> None:
    """Write strips one below the other as a PNG, enlarged where the images are small. There must be an image."""
    filled = [image for strip in strips for image in strip.images]
    assert filled, "a sheet of no images"
    columns = max(len(strip.images) for strip in strips)
    blank = np.full_like(filled[0], _PAPER)
    images = np.stack([image for strip in strips for image in [*strip.images, *[blank] * columns][:columns]])
    captions = [text for strip in strips for text in [*strip.captions, *[""] * columns][:columns]]
    labels = [strip.label for strip in strips]
    page = grid(
        images,
        columns=columns,
        labels=captions if any(captions) else None,
        row_labels=labels if any(labels) else None,
        scale=scale_for(images),
    )
    write_png(path, page)


def require_new(path: Path, replace: bool, setting: str) -> None:
    """Refuse to write over a file, or into a folder that is not there, before any work is done. Raises ConfigError."""
    if not path.parent.is_dir():
        raise ConfigError(f"`{setting}={path}`: {path.parent} is not a folder", "make it, or give another path")
    if path.is_dir() or (path.exists() and not replace):
        again = "give another name" if path.is_dir() else "give another name, or `replace`"
        raise ConfigError(f"`{setting}={path}` exists, and is not overwritten", again)
