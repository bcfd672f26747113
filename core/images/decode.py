"""One image: from the bytes of a file to RGB, to the training square, to a tensor, and back to a file."""

import importlib
import importlib.util
import io
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from .. import files
from ..errors import DataError, as_data_error
from . import budget, signatures
from .parameters import text_chunk

Fit = Literal["crop", "pad", "stretch"]
HEIF = "HEIF"  # the name by which Pillow knows what pillow-heif decodes
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
MAX_PIXELS = 89_478_485  # Pillow's own limit, so that nothing global needs changing: 268 MB of RGB
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".ppm"),
    *(".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".jp2", ".j2k", ".avif", ".heic", ".heif", ".hif", ".jxl"),
)

# Formats decoded in this process (EPS would start Ghostscript) that notice when they are cut off (JPEG 2000 does not).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "AVIF")
# Bytes for each pixel, measured: what Pillow keeps a picture in, by its mode, and what decoders take beside that.
_STORAGE = {"1": 1, "L": 1, "P": 1, "I;16": 3, "I;16B": 3, "I;16L": 3}
_OTHER_STORAGE = 4
_DECODER = {"WEBP": 12, "AVIF": 12, "HEIF": 12, "PPM": 8}
_YCBCR = 6  # TIFF 6.0, PhotometricInterpretation: decoded by way of RGBA
_MOST_SCANS = 50  # of a JPEG, each of which passes over all pixels; encoders make about ten
_SCAN = b"\xff\xda"
_SLOW_PIXELS = 2_000_000  # of a PPM that Pillow decodes in Python
_STRIP = 1 << 20  # pixels worked on at once
_SUBFILE = 254  # TIFF 6.0, NewSubfileType; bit 0: a reduced version of another picture in the file
_BEGINNINGS = {".png": b"\x89PNG\r\n\x1a\n", ".webp": b"RIFF....WEBP", ".jpg": b"\xff\xd8\xff"}
# EXIF orientation 2 … 8 (EXIF 2.32, tag 0x0112) and what undoes it.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, name: str, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    """Decode an image file to RGB, uint8 (H, W, 3), as `decode_picture` does."""
    return np.array(decode_picture(data, name, background))


def decode_picture(data: bytes, name: str, background: tuple[int, int, int] | None = WHITE) -> Image.Image:
    """Decode an image file to RGB, upright as EXIF says; to RGBA without a background, where it has transparency.

    Grey becomes three equal channels, 16 bits are scaled to 8, transparency is composited on `background`, CMYK is
    converted without a colour profile (embedded profiles are not applied), and of an animation the first frame is
    taken. Raises DataError naming the file when it is empty, truncated, damaged, not an image, larger than
    `MAX_PIXELS` (by the header, before anything is allocated), or holds numbers without a known range, such
    as floats.
    """
    if not data:
        raise DataError(f"{name} is empty", "remove the file or replace it")
    if signatures.RAW.match(data):
        _refuse_format(data, name)
    with as_data_error(f"{name} cannot be decoded", "replace or remove it"):
        picture, orientation = _decoded(data, name, background)
        return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture


def _decoded(data: bytes, name: str, background: tuple[int, int, int] | None) -> tuple[Image.Image, object]:
    """Decode an image file to RGB as it lies in the file, and return what EXIF says of its orientation."""
    with _opened(data, name) as image:
        _refuse_too_much(image, data, name)
        _refuse_unscaled_key(image, name)
        if image.format == "TIFF" and image.tag_v2.get(_SUBFILE, 0) & 1:
            raise DataError(f"{name} is a camera's raw file: its first picture is a preview", "develop it to JPEG")
        white_is_zero = image.format == "TIFF" and image.mode.startswith("I;16") and image.tag_v2.get(262) == 0
        bits = image.tag_v2.get(258, (16,))[0] if image.format == "TIFF" else 16
        image.load()
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
            return _grey_16(image, bits, white_is_zero), orientation
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            kind = "floating-point" if image.mode == "F" else "signed or 32-bit"
            raise DataError(f"{name} holds {kind} pixels, whose range is unknown", "convert it to 8 or 16 bits")
        if image.has_transparency_data or image.mode in ("La", "RGBa"):
            return opaque(image, background), orientation
        return in_mode(image, "RGB"), orientation


def _opened(data: bytes, name: str) -> ImageFile.ImageFile:
    """Open an image of which only the header is read."""
    try:
        return Image.open(io.BytesIO(data), formats=readable_formats())
    except Image.UnidentifiedImageError:
        _refuse_format(data, name)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name} declares too many pixels: {error}", "shrink or remove it") from None


def _refuse_format(data: bytes, name: str) -> NoReturn:
    what, remedy = signatures.named(data)
    if what == signatures.HEIC and HEIF in readable_formats():
        what, remedy = f"{what} that is damaged", "replace or remove it"
    raise DataError(f"{name} cannot be read: it is {what}", remedy) from None


@cache
def readable_formats() -> tuple[str, ...]:
    """Return the formats that are decoded: HEIC, too, where the package pillow-heif is installed."""
    Image.preinit()
    if importlib.util.find_spec("pillow_heif") is None:
        return _FORMATS
    importlib.import_module("pillow_heif").register_heif_opener()
    return (*_FORMATS, HEIF)


def _refuse_too_much(image: ImageFile.ImageFile, data: bytes, name: str) -> None:
    """Raise DataError for what takes too long or too much memory to decode; take the memory out of the budget."""
    pixels, scans = image.width * image.height, data.count(_SCAN) if image.format in ("JPEG", "MPO") else 1
    if pixels > MAX_PIXELS:
        raise DataError(f"{name} declares {pixels:,} pixels; the limit is {MAX_PIXELS:,}", "shrink or remove it")
    if scans > _MOST_SCANS:
        raise DataError(f"{name} has {scans:,} scans, like a bomb for decoders", "save it again, or remove it")
    if pixels > _SLOW_PIXELS and any(str(tile[0]).startswith("ppm") for tile in image.tile):
        raise DataError(f"{name} has {pixels:,} pixels that are not plain bytes", "save it as PNG")
    taken = int(pixels * _bytes_per_pixel(image, scans)) + len(data)
    budget.MEMORY.take(taken, budget.stored_bytes(data), name)


def _bytes_per_pixel(image: ImageFile.ImageFile, scans: int) -> float:
    """Return how much decoding takes at its peak, before `image.load`: decoder, picture, and the picture in RGB."""
    decoder: float = _DECODER.get(str(image.format), 0)
    if scans > 1:
        decoder = 2 * len(image.getbands())  # coefficients of all blocks, 16 bits each
    elif isinstance(image, TiffImageFile):
        bits, colours = sum(image.tag_v2.get(258, (1,))), image.tag_v2.get(262)
        decoder = bits / 8 + (4 if colours == _YCBCR else 0)  # All may be one strip.
    alpha = image.has_transparency_data
    in_rgb = 0 if image.mode == "RGB" and not alpha else 4
    in_rgba = 4 if alpha and image.mode != "RGBA" else 0
    return decoder + _STORAGE.get(image.mode, _OTHER_STORAGE) + in_rgb + in_rgba


def _refuse_unscaled_key(image: ImageFile.ImageFile, name: str) -> None:
    """Refuse a PNG's transparent colour given in 2, 4 or 16 bits: decoded pixels of 8 bits do not show it."""
    raw_modes = [str(tile[3]) for tile in image.tile]
    if image.format == "PNG" and image.mode != "P" and "transparency" in image.info:
        for depth in ("2", "4", "16"):
            if any(f";{depth}" in raw for raw in raw_modes):
                raise DataError(f"{name} has a transparent colour in {depth} bits", "save it with an alpha channel")


def _grey_16(image: Image.Image, bits: int, white_is_zero: bool) -> Image.Image:
    """Scale grey of up to 16 bits to 8, rounding to nearest, and repeat it for R, G and B."""
    top, scaled = 2**bits - 1, Image.new("L", image.size)
    for box in strips(image):
        values = np.asarray(image.crop(box)).astype(np.uint32)
        grey = ((values * 255 + top // 2) // top).clip(0, 255).astype(np.uint8)
        scaled.paste(Image.fromarray(255 - grey if white_is_zero else grey), box)
    return scaled.convert("RGB")


def opaque(image: Image.Image, background: tuple[int, int, int] | None) -> Image.Image:
    """Lay an image on a plain background: round((a · colour + (255 - a) · background) / 255); without one, as RGBA."""
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    image = in_mode(image, "RGBA")
    if background is None:
        return image
    laid = Image.new("RGB", image.size, background)
    laid.paste(image, (0, 0), image)
    return laid


def in_mode(image: Image.Image, mode: str | None) -> Image.Image:
    """Return an image in a mode of Pillow's; as it is where it has that mode, of which `convert` would make a copy."""
    return image if mode in (None, image.mode) else image.convert(mode)


def strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Yield boxes of whole rows, about a million pixels each, that make up an image."""
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width of images of a size: the side of squares, or both."""
    return (size, size) if isinstance(size, int) else size


def to_training(
    image: np.ndarray | Image.Image,
    size: int | tuple[int, int],
    fit: Fit = "crop",
    background: tuple[int, int, int] = WHITE,
    mode: str | None = None,
) -> np.ndarray:
    """Bring an image, uint8 (H, W, 3) or a picture in RGB, L or RGBA, to the size of training, uint8.

    size: the side of squares, or height and width. mode: Pillow's name of what is wanted, by default what the picture
    has. Returns (height, width, 3 or 4), or (height, width) in grey.

    "crop" takes the centre as ADM does (Dhariwal & Nichol 2021): halve with a box filter while both sides are at least
    twice what they have to be, resize with a bicubic filter until one is right and the other not too small, cut out the
    centre. Smaller images are enlarged the same way. "pad" brings the image inside in the same two steps, and puts it
    into the middle of the background, see-through where the picture has alpha. "stretch" brings both sides to their
    size with a bicubic filter, and loses the aspect ratio.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if mode == "L":  # Before it shrinks, so that no rounding comes in between.
        picture = in_mode(picture, mode)
    tall, wide = sides(size)
    if picture.size == (wide, tall):
        return np.array(in_mode(picture, mode))
    if fit == "stretch":
        return np.array(in_mode(picture.resize((wide, tall), Image.Resampling.BICUBIC), mode))

    # Of squares, the shorter side counts for "crop" and the longer one for "pad".
    def share() -> tuple[int, int]:
        """Return a side of the picture, and what it has to become: the one that sets the scale."""
        across, down = (picture.width, wide), (picture.height, tall)
        is_wider = picture.width * tall > picture.height * wide
        return down if is_wider == (fit == "crop") else across

    while share()[0] >= 2 * share()[1]:
        halved = max(picture.width // 2, 1), max(picture.height // 2, 1)
        picture = picture.resize(halved, Image.Resampling.BOX)
    picture = in_mode(picture, mode)  # Opaque alpha is the same before and after; here it takes less memory.

    now, wanted = share()
    scale = wanted / now
    width, height = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    left, top = (width - wide) // 2, (height - tall) // 2
    if fit == "pad":
        padded = Image.new("RGB", (wide, tall), background).convert(picture.mode)
        if picture.mode == "RGBA":
            padded.putalpha(0)
        padded.paste(picture.resize((width, height), Image.Resampling.BICUBIC), (-left, -top))
        return np.array(padded)
    if max(width / wide, height / tall) > 16:
        # A very long strip: compute the centre alone, the rest of the enlarged strip could fill the memory.
        x, y = picture.width / width, picture.height / height
        box = (left * x, top * y, (left + wide) * x, (top + tall) * y)
        return np.array(picture.resize((wide, tall), Image.Resampling.BICUBIC, box=box))
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(picture.crop((left, top, left + wide, top + tall)))


def is_dark(pixels: np.ndarray) -> bool:
    """Return whether an image, uint8, shows next to nothing: no value is above an eighth of the range."""
    return int(pixels.max()) < 32


def as_tensor(batch: np.ndarray) -> torch.Tensor:
    """Turn uint8 (B, H, W, C) into float32 (B, C, H, W) in [-1, 1]."""
    assert batch.dtype == np.uint8 and batch.ndim == 4, f"{batch.dtype} {batch.shape}"
    return (
        torch.from_numpy(batch).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 127.5 - 1
    )


def as_uint8(images: torch.Tensor) -> np.ndarray:
    """Turn (B, C, H, W) in [-1, 1] into uint8 (B, H, W, C), clamping and rounding: the inverse of `as_tensor`."""
    assert torch.isfinite(images).all(), "images hold NaN or infinity"
    levels = ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).cpu().numpy())


def is_picture(path: Path) -> bool:
    """Return whether a file is there and begins as the PNG, WebP or JPEG that its name says: what may be shown as one.

    A link in a folder of others may lead to anything.
    """
    beginning = _BEGINNINGS.get(path.suffix)
    if beginning is None or not path.is_file():
        return False
    with path.open("rb") as file:
        return re.match(beginning, file.read(16), re.DOTALL) is not None


def write_png(path: Path, image: np.ndarray, parameters: Mapping[str, Any] | None = None) -> None:
    """Write uint8 (H, W, C) or (H, W) as a PNG, whole or not at all; the same pixels give the same bytes.

    parameters: JSON that the file carries, as `core.images.parameters` reads it.
    """
    chunk = text_chunk(parameters) if parameters is not None else None
    picture = picture_of(image)
    files.write_atomically(path, lambda temporary: picture.save(temporary, format="PNG", pnginfo=chunk))


def picture_of(image: np.ndarray) -> Image.Image:
    """Return an image, uint8 (H, W, 3 or 4), or grey (H, W, 1) or (H, W), as Pillow has it."""
    return Image.fromarray(image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image)
