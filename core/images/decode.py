"""One image: from the bytes of a file to RGB, to the training square, to a tensor, and back to a file."""

import io
import re
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile

from .. import files
from ..errors import DataError, as_data_error
from . import signatures

Crop = Literal["adm", "stretch"]
WHITE = (255, 255, 255)
MAX_PIXELS = 89_478_485  # Pillow's own limit, so that nothing global needs changing: 268 MB of RGB
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".ppm"),
    *(".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".jp2", ".j2k", ".avif", ".heic", ".heif", ".jxl"),
)

# Formats decoded in this process (EPS would start Ghostscript) that notice when they are cut off (JPEG 2000 does not).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "AVIF")
# A file that swells this much is a bomb, whatever it shows; honest photographs stay below 100 pixels a byte.
_BOMB_PIXELS, _BOMB_PIXELS_PER_BYTE = 16_000_000, 256
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


def decode_picture(data: bytes, name: str, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """Decode an image file to RGB, upright as EXIF says.

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
    border = as_data_error(f"{name} cannot be decoded", "replace or remove it")
    with border, _opened(data, name) as image:
        _refuse_bomb(image.width * image.height, len(data), name)
        _refuse_unscaled_key(image, name)
        if image.format == "TIFF" and image.tag_v2.get(_SUBFILE, 0) & 1:
            raise DataError(f"{name} is a camera's raw file: its first picture is a preview", "develop it to JPEG")
        white_is_zero = image.format == "TIFF" and image.mode.startswith("I;16") and image.tag_v2.get(262) == 0
        bits = image.tag_v2.get(258, (16,))[0] if image.format == "TIFF" else 16
        image.load()
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        upright = image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
            return Image.fromarray(_grey_16(np.asarray(upright), bits, white_is_zero))
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            kind = "floating-point" if image.mode == "F" else "signed or 32-bit"
            raise DataError(f"{name} holds {kind} pixels, whose range is unknown", "convert it to 8 or 16 bits")
        if upright.has_transparency_data or image.mode in ("La", "RGBa"):
            return Image.fromarray(_composite(upright, background))
        return upright if upright.mode == "RGB" else upright.convert("RGB")


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
    raise DataError(f"{name} cannot be read: it is {what}", remedy) from None


def readable_formats() -> tuple[str, ...]:
    Image.preinit()
    return _FORMATS


def _refuse_bomb(pixels: int, num_bytes: int, name: str) -> None:
    if pixels > MAX_PIXELS:
        raise DataError(f"{name} declares {pixels:,} pixels; the limit is {MAX_PIXELS:,}", "shrink or remove it")
    if pixels > max(_BOMB_PIXELS, _BOMB_PIXELS_PER_BYTE * num_bytes):
        message = f"{name} declares {pixels:,} pixels in {num_bytes:,} bytes, like a decompression bomb"
        raise DataError(message, "shrink or remove it")


def _refuse_unscaled_key(image: ImageFile.ImageFile, name: str) -> None:
    """Refuse a PNG's transparent colour given in 2, 4 or 16 bits: decoded pixels of 8 bits do not show it."""
    raw_modes = [str(tile[3]) for tile in image.tile]
    if image.format == "PNG" and image.mode != "P" and "transparency" in image.info:
        for depth in ("2", "4", "16"):
            if any(f";{depth}" in raw for raw in raw_modes):
                raise DataError(f"{name} has a transparent colour in {depth} bits", "save it with an alpha channel")


def _grey_16(values: np.ndarray, bits: int, white_is_zero: bool) -> np.ndarray:
    """Scale grey of up to 16 bits to 8, rounding to nearest, and repeat it for R, G and B."""
    top = 2**bits - 1
    grey = ((values.astype(np.uint32) * 255 + top // 2) // top).clip(0, 255).astype(np.uint8)
    return np.repeat((255 - grey if white_is_zero else grey)[:, :, None], 3, axis=2)


def _composite(image: Image.Image, background: tuple[int, int, int]) -> np.ndarray:
    """Lay an image on a plain background: round((a · colour + (255 - a) · background) / 255)."""
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    pixels = np.asarray(image if image.mode == "RGBA" else image.convert("RGBA"))
    alpha = pixels[:, :, 3].astype(np.uint16)
    out = np.empty((*alpha.shape, 3), dtype=np.uint8)
    for channel, behind in enumerate(background):
        out[:, :, channel] = (alpha * pixels[:, :, channel] + (255 - alpha) * np.uint16(behind) + 127) // 255
    return out


def to_training(image: np.ndarray | Image.Image, size: int, crop: Crop = "adm") -> np.ndarray:
    """Bring an RGB image, uint8 (H, W, 3) or a picture, to the square of training, uint8 (size, size, 3).

    "adm" crops the centre as ADM does (Dhariwal & Nichol 2021): halve with a box filter while the shorter side is at
    least twice `size`, bring it to `size` with a bicubic filter, cut out the centre. Smaller images are enlarged the
    same way. "stretch" brings both sides to `size` with a bicubic filter, and loses the aspect ratio.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if picture.size == (size, size):
        return np.array(picture)
    if crop == "stretch":
        return np.array(picture.resize((size, size), Image.Resampling.BICUBIC))

    while min(picture.size) >= 2 * size:
        half_width, half_height = picture.width // 2, picture.height // 2
        picture = picture.resize((half_width, half_height), Image.Resampling.BOX)

    scale = size / min(picture.size)
    width, height = round(picture.width * scale), round(picture.height * scale)
    left, top = (width - size) // 2, (height - size) // 2
    if max(width, height) > 16 * size:
        # A very long strip: compute the centre alone, the rest of the enlarged strip could fill the memory.
        x, y = picture.width / width, picture.height / height
        box = (left * x, top * y, (left + size) * x, (top + size) * y)
        return np.array(picture.resize((size, size), Image.Resampling.BICUBIC, box=box))
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(picture.crop((left, top, left + size, top + size)))


def is_dark(pixels: np.ndarray) -> bool:
    """Return whether an image, uint8, shows next to nothing: no value is above an eighth of the range."""
    return int(pixels.max()) < 32


def as_tensor(batch: np.ndarray) -> torch.Tensor:
    """Turn uint8 (B, H, W, 3) into float32 (B, 3, H, W) in [-1, 1]."""
    assert batch.dtype == np.uint8 and batch.ndim == 4, f"{batch.dtype} {batch.shape}"
    return (
        torch.from_numpy(batch).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 127.5 - 1
    )


def as_uint8(images: torch.Tensor) -> np.ndarray:
    """Turn (B, 3, H, W) in [-1, 1] into uint8 (B, H, W, 3), clamping and rounding: the inverse of `as_tensor`."""
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


def write_png(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) or (H, W) as a PNG, whole or not at all; the same pixels give the same bytes."""
    files.write_atomically(path, lambda temporary: Image.fromarray(image).save(temporary, format="PNG"))
