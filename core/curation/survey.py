"""What images are like, as training would meet them: sizes, formats, colours, counts, and which cannot be read."""

import io
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from ..errors import DataError
from ..images.dataset import ImageSource
from ..images.decode import is_dark, readable_formats

ARRAY = "array"  # format of images that are kept as numbers
EXAMPLES = 5
# Width by height, up to where each kind of shape goes.
SHAPES = {"tall": 0.5, "portrait": 0.9, "square": 1 / 0.9, "landscape": 2.0, "wide": np.inf}
_SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), "PPM"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    **dict(zip((".webp", ".gif", ".tga", ".avif"), ("WEBP", "GIF", "TGA", "AVIF"), strict=True)),
}
_GREY = 3  # levels by which the channels of a grey image may differ, as JPEG leaves them


@dataclass(frozen=True)
class Look:
    """One image: its size as shown, in pixels, how it is stored, and what is special about it.

    mode: as Pillow names it, `RGB`, `L`, `CMYK`, with `;16` where there are 16 bits a channel. traits: some of TRAITS.
    """

    width: int
    height: int
    format: str
    mode: str
    traits: tuple[str, ...] = ()


# What may be special about images, and how to say so of some.
TRAITS = {
    "16-bit": "with 16 bits a channel",
    "alpha": "with transparency, laid on white",
    "turned": "turned upright as their EXIF says",
    "animated": "animated; the first frame is taken",
    "colourless": "stored in colour and showing none",
    "misnamed": "of another format than they are named",
    "dark": "nearly black, without any value above an eighth of the range",
}


def look(source: ImageSource, index: int, content: bytes | np.ndarray) -> Look:
    """Decode one image as training does, and say what it is like. Raises DataError where it cannot be decoded."""
    picture = source.picture(index, content=content)
    width, height = picture.size
    if not isinstance(content, bytes):
        kind, colour = ("RGB", _colourless(picture)) if content.ndim == 3 else ("L", ())
        return Look(width, height, ARRAY, kind, (*colour, *_dark(picture)))
    with Image.open(io.BytesIO(content), formats=readable_formats()) as image:
        layout = " ".join(str(tile[3]) for tile in image.tile)
        # A JPEG that holds other pictures as well (CIPA DC-007), as cameras write previews: the first one is decoded.
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        deep = image.mode.startswith("I") or ";16" in layout
        expected = _SUFFIXES.get(PurePosixPath(source.names[index]).suffix.lower(), kind)
        has = {
            "16-bit": deep,
            "alpha": image.has_transparency_data,
            "turned": image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9),
            "animated": image.format != "MPO" and getattr(image, "is_animated", False),
            "misnamed": expected != kind,
        }
        colour = _colourless(picture) if image.mode in ("RGB", "RGBA", "CMYK", "YCbCr", "LAB") else ()
        mode = f"{image.mode.partition(';')[0]}{';16' if deep else ''}"
        return Look(width, height, kind, mode, (*(trait for trait in has if has[trait]), *colour, *_dark(picture)))


def _colourless(picture: Image.Image) -> tuple[str, ...]:
    """Return the trait of a picture in RGB whose channels are equal, as a sample of its pixels shows."""
    step = max(1, min(picture.size) // 128)
    rows = (np.asarray(picture.crop((0, y, picture.width, y + 1)))[0, ::step] for y in range(0, picture.height, step))
    is_grey = all(int(np.ptp(row.astype(np.int16), axis=1).max()) <= _GREY for row in rows)
    return ("colourless",) if is_grey else ()


def _dark(picture: Image.Image) -> tuple[str, ...]:
    return ("dark",) if is_dark(np.array(picture.getextrema())) else ()


@dataclass(frozen=True)
class Broken:
    """An image that cannot be decoded."""

    part: str
    name: str
    reason: str


@dataclass
class Survey:
    """What was seen of all images so far. Of each image only its size is kept, and the names of the broken ones.

    class_counts: by part, images of each class that can be decoded, int64 (K,). examples: first names of each trait.
    """

    class_counts: dict[str, np.ndarray] = field(default_factory=dict)
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    traits: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)
    _sides: array = field(default_factory=lambda: array("q"))  # width, height, width, …

    def add(self, part: str, source: ImageSource, index: int, seen: Look | DataError) -> None:
        """Take in one image."""
        counts = self.class_counts.setdefault(part, np.zeros(len(source.class_names), dtype=np.int64))
        name = source.names[index]
        if isinstance(seen, DataError):
            self.broken.append(Broken(part, name, seen.message.removeprefix(f"{source.location}: ")))
            return
        counts[source.labels[index]] += 1
        self.formats[seen.format] += 1
        self.modes[seen.mode] += 1
        self._sides.extend((seen.width, seen.height))
        for trait in seen.traits:
            self.traits[trait] += 1
            if self.traits[trait] <= EXAMPLES:
                self.examples.setdefault(trait, []).append(name)

    def __len__(self) -> int:
        """How many images can be decoded."""
        return len(self._sides) // 2

    @property
    def sizes(self) -> np.ndarray:
        """Width and height of each image, int64 (N, 2)."""
        return np.array(self._sides, dtype=np.int64).reshape(-1, 2)

    @property
    def shorter(self) -> np.ndarray:
        """The shorter side of each image, pixels, int64 (N,)."""
        return self.sizes.min(1)

    @property
    def shapes(self) -> dict[str, int]:
        """How many images are of each of SHAPES, by width over height."""
        ratios = self.sizes[:, 0] / self.sizes[:, 1]
        kinds = np.searchsorted([*SHAPES.values()][:-1], ratios, side="left")
        return dict(zip(SHAPES, np.bincount(kinds, minlength=len(SHAPES)).tolist(), strict=True))

    def described(self) -> dict[str, Any]:
        """Return all of it as JSON."""

        def span(values: np.ndarray) -> dict[str, float]:
            return {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}

        sides = {"width": self.sizes[:, 0], "height": self.sizes[:, 1], "shorter": self.shorter}
        return {
            "decoded": len(self),
            "sizes": {name: span(values) for name, values in sides.items()} if len(self) else {},
            "shapes": self.shapes if len(self) else {},
            "formats": dict(self.formats.most_common()),
            "modes": dict(self.modes.most_common()),
            "traits": {trait: self.traits[trait] for trait in TRAITS},
            "examples": self.examples,
            "broken": [vars(image) for image in self.broken],
        }
