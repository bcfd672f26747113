"""Pictures of pictures: labelled grids and animations."""

import unicodedata
from collections.abc import Sequence
from functools import cache
from math import ceil, isqrt
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .. import files
from .decode import opaque, picture_of

_PAPER = (255, 255, 255)
_INK = (40, 40, 40)
_GAP = 2


def grid(
    images: np.ndarray,
    columns: int | None = None,
    labels: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    scale: int = 1,
    lines: int = 1,
) -> np.ndarray:
    """Lay images, uint8 (N, H, W, 1, 3 or 4), out in rows on white; return uint8 (height, width, 3).

    Without `columns` the grid is about square. `labels` stand below each image, `row_labels` left of each row,
    `column_labels` above each column. `scale` enlarges each pixel to a square of that many. lines: into which texts
    below and left of images are broken, at most.
    """
    assert images.ndim == 4 and images.dtype == np.uint8 and len(images) > 0, f"{images.dtype} {images.shape}"
    count, height, width = len(images), images.shape[1] * scale, images.shape[2] * scale
    columns = columns or isqrt(count - 1) + 1
    rows = ceil(count / columns)
    assert labels is None or len(labels) == count, f"{len(labels or ())} labels for {count} images"
    assert row_labels is None or len(row_labels) == rows, f"{len(row_labels or ())} labels for {rows} rows"
    assert column_labels is None or len(column_labels) == columns, f"{len(column_labels or ())} for {columns} columns"

    font = _font(width, [*(labels or ()), *(row_labels or ()), *(column_labels or ())])
    line = _text_size("Ág", font)[1] + 2
    below = [_broken(text, font, width, lines) for text in labels or ()]
    high = max(1, min(lines, height // line))
    beside = [_broken(text, font, 2 * width, high) if high > 1 else [drawable(text)] for text in row_labels or ()]
    left = max((_text_size(text, font)[0] for texts in beside for text in texts), default=0) + 6 if beside else _GAP
    top = line + _GAP if column_labels else _GAP
    cell_width, cell_height = width + _GAP, height + _GAP + line * max(map(len, below), default=0)
    page = Image.new("RGB", (left + columns * cell_width, top + rows * cell_height), _PAPER)
    draw = ImageDraw.Draw(page)

    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        x, y = left + column * cell_width, top + row * cell_height
        page.paste(_shown(image).resize((width, height), Image.Resampling.NEAREST), (x, y))
        if labels:
            for number, text in enumerate(below[index]):
                _write(draw, text, x + width // 2, y + height + 1 + number * line, font, "ma", width)
    for row, texts in enumerate(beside):
        middle = top + row * cell_height + height // 2 - (len(texts) - 1) * line // 2
        for number, text in enumerate(texts):
            _write(draw, text, left - 4, middle + number * line, font, "rm", left)
    for column, text in enumerate(column_labels or ()):
        _write(draw, text, left + column * cell_width + width // 2, 1, font, "ma", width)
    return np.array(page)


def scale_for(images: np.ndarray, side: int = 64) -> int:
    """Return by how much to enlarge images, uint8 (N, H, W, 3), so that they are at least about `side` pixels wide."""
    return max(1, round(side / images.shape[2]))


def cells(path: Path, side: int) -> dict[str, int] | None:
    """Return where images of so many pixels lie in a picture that `grid` made with `scale_for` and names of its rows.

    rows, columns, and in pixels: side of an image, distance of one from the next, and left and top of the first. None
    where the picture does not have that layout.
    """
    with Image.open(path) as picture:
        width, height = picture.size
    shown = side * scale_for(np.empty((1, side, side, 3), np.uint8))
    rows, below = divmod(height - _GAP, shown + _GAP)
    columns, left = divmod(width, shown + _GAP)
    if below or not rows or not columns:
        return None
    return {"rows": rows, "columns": columns, "side": shown, "step": shown + _GAP, "left": left, "top": _GAP}


def animation(frames: Sequence[np.ndarray], path: Path, milliseconds: int = 80, hold: int = 1500) -> None:
    """Write frames, each uint8 (H, W, 3), as an endless animation: .webp (lossless), .png (APNG) or .gif by `path`.

    Each frame stays `milliseconds`, the last one `hold`. The file is whole or absent.
    """
    formats = {".webp": "WEBP", ".png": "PNG", ".apng": "PNG", ".gif": "GIF"}
    assert path.suffix in formats and len(frames) > 0, f"{path.name}, {len(frames)} frames"
    pictures = [Image.fromarray(frame) for frame in frames]
    durations = [milliseconds] * (len(frames) - 1) + [hold]

    def write(temporary: Path) -> None:
        options = {"lossless": True, "quality": 50} if path.suffix == ".webp" else {}
        pictures[0].save(
            temporary,
            format=formats[path.suffix],
            save_all=True,
            append_images=pictures[1:],
            duration=durations,
            loop=0,
            **options,
        )

    files.write_atomically(path, write)


def _shown(image: np.ndarray) -> Image.Image:
    """Return an image as a picture, on paper where it is see-through."""
    picture = picture_of(image)
    return opaque(picture, _PAPER) if picture.mode == "RGBA" else picture


def _font(cell_width: int, texts: Sequence[str]) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Choose a size that can be read and lets about eight letters stand below an image, and a font that has them."""
    size = min(20, max(10, cell_width // 5))
    if all(map(str.isascii, texts)):
        return ImageFont.load_default(size)
    return ImageFont.truetype(_font_file(), size)


def _text_size(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> tuple[int, int]:
    """Return width and height of a drawable text, pixels."""
    box = font.getbbox(text)
    return ceil(box[2]), ceil(box[3])


def _broken(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int, most: int) -> list[str]:
    """Break a text between words into at most so many lines that fit into the room; the last one has all the rest."""
    lines = [""]
    for word in drawable(text).split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _text_size(longer, font)[0] > room and len(lines) < most:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _write(
    draw: ImageDraw.ImageDraw,
    text: str,
    x: int,
    y: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    anchor: str,
    room: int,
) -> None:
    """Write one line of text, shortened with an ellipsis where it is wider than its room."""
    text = drawable(text)
    if _text_size(text, font)[0] > room:
        while text and _text_size(text + "…", font)[0] > room:
            text = text[:-1]
        text += "…"
    draw.text((x, y), text, fill=_INK, font=font, anchor=anchor)


def shorter(text: str, letters: int) -> str:
    """Leave out the middle of a text that has more letters: names often differ at their ends."""
    if len(text) <= letters:
        return text
    head = letters // 2
    return f"{text[:head]}…{text[len(text) - (letters - head - 1) :]}"


def drawable(text: str) -> str:
    """Keep a label on one line, with a mark for bytes that are not text, and symbols that no font here has by name."""
    line = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    return line if line.isascii() else "".join(map(_in_words, line))


@cache
def _in_words(letter: str) -> str:
    """Return a letter, if the font has it, else its name: an emoji would be an empty box, and so would be the next."""
    name = unicodedata.name(letter, f"U+{ord(letter):04X}")
    if unicodedata.category(letter) == "Cf" or name.startswith("VARIATION SELECTOR"):  # of the letter before
        return ""
    return letter if letter.isascii() or ord(letter) in _letters() else f"[{name.lower()}]"


@cache
def _letters() -> frozenset[int]:
    """Return the letters of the font of pictures and figures, as code points."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_font_file())).get_charmap())


def _font_file() -> Path:
    import matplotlib  # Pillow's own font ends with ASCII; this one has é, ß, Ж and λ.

    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
