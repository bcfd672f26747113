"""Forty-two kinds of image files that people have in folders, with the pixels each must give, or None for a refusal."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 20, 30
GREY = np.add.outer(np.arange(HEIGHT) * 5, np.arange(WIDTH) * 5).astype(np.uint8)
RGB = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
ALPHA = np.linspace(0, 255, GREY.size).round().astype(np.uint8).reshape(GREY.shape)
RAMP = np.linspace(0, 65535, GREY.size).round().astype(np.uint16).reshape(GREY.shape)

Kind = tuple[bytes, np.ndarray | None]


def kinds() -> dict[str, Kind]:
    """Return every kind by the name of its file: its bytes, and the pixels, uint8 (H, W, 3), within 1 of 255."""
    return {**_whole(), **_deep(), **_transparent(), **_turned(), **_shapes(), **_refused()}


def _whole() -> dict[str, Kind]:
    rgb, grey = Image.fromarray(RGB), Image.fromarray(GREY)
    inks = np.dstack([RGB, GREY // 2])
    from_inks = np.rint((255.0 - RGB) * (255.0 - GREY // 2)[:, :, None] / 255).astype(np.uint8)
    bits = GREY > 100
    jpeg = encoded(rgb, "JPEG", quality=95)
    return {
        "rgb.png": (encoded(rgb, "PNG"), RGB),
        "rgb.bmp": (encoded(rgb, "BMP"), RGB),
        "rgb.tiff": (encoded(rgb, "TIFF"), RGB),
        "packed.tif": (encoded(rgb, "TIFF", compression="tiff_lzw"), RGB),
        "rgb.webp": (encoded(rgb, "WEBP", lossless=True), RGB),
        "rgb.ppm": (encoded(rgb, "PPM"), RGB),
        "rgb.tga": (encoded(rgb, "TGA"), RGB),
        "photo.jpg": (jpeg, np.asarray(Image.open(io.BytesIO(jpeg)))),
        "progressive.jpeg": (encoded(rgb, "JPEG", quality=95, progressive=True), shown(rgb, "JPEG", quality=95)),
        "colours.gif": (encoded(rgb.quantize(64), "GIF"), np.asarray(rgb.quantize(64).convert("RGB"))),
        "grey.png": (encoded(grey, "PNG"), repeated(GREY)),
        "grey.jpg": (encoded(grey, "JPEG", quality=95), repeated(shown(grey, "JPEG", quality=95))),
        "one-bit.png": (encoded(Image.fromarray(bits), "PNG"), repeated(bits * 255).astype(np.uint8)),
        "one-bit.tiff": (encoded(Image.fromarray(bits), "TIFF"), repeated(bits * 255).astype(np.uint8)),
        "cmyk.tiff": (encoded(Image.fromarray(inks, "CMYK"), "TIFF"), from_inks),
        "right-bytes-wrong-name.jpg": (encoded(rgb, "PNG"), RGB),
    }


def _deep() -> dict[str, Kind]:
    """16 bits, which `convert("RGB")` would saturate."""
    deep = Image.frombytes("I;16", (WIDTH, HEIGHT), RAMP.tobytes())
    expected = repeated(np.rint(RAMP / 257)).astype(np.uint8)
    values = np.linspace(0, 65535, 3 * GREY.size).round().astype(">u2").reshape(HEIGHT, WIDTH, 3)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    return {
        "grey-16.png": (encoded(deep, "PNG"), expected),
        "grey-16.tiff": (encoded(deep, "TIFF"), expected),
        "rgb-16.png": (raw_png(WIDTH, HEIGHT, 16, 2, rows), np.rint(values / 257).astype(np.uint8)),
    }


def _transparent() -> dict[str, Kind]:
    """What is see-through is laid on white."""
    with_alpha = Image.fromarray(np.dstack([RGB, ALPHA]))
    grey_alpha = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])
    palette = Image.fromarray((GREY // 64).astype(np.uint8)).convert("P")
    colours, alphas = np.array([(10, 20, 30), (200, 0, 0), (0, 150, 0), (0, 0, 90)]), np.array([0, 85, 170, 255])
    palette.putpalette(colours.ravel().tolist())
    index = GREY // 64
    return {
        "rgba.png": (encoded(with_alpha, "PNG"), on_white(RGB, ALPHA)),
        "rgba.webp": (encoded(with_alpha, "WEBP", lossless=True, exact=True), on_white(RGB, ALPHA)),
        "la.png": (encoded(grey_alpha, "PNG"), on_white(repeated(GREY), ALPHA)),
        "palette-alpha.png": (
            encoded(palette, "PNG", transparency=bytes(alphas.tolist())),
            on_white(colours[index], alphas[index]),
        ),
    }


def _turned() -> dict[str, Kind]:
    """What EXIF's orientation says of where the first row and column are, undone."""
    upright = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: RGB[::-1].transpose(1, 0, 2),
        7: RGB[::-1, ::-1].transpose(1, 0, 2),
        8: RGB[:, ::-1].transpose(1, 0, 2),
    }
    found: dict[str, Kind] = {}
    for orientation, expected in upright.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        found[f"turned-{orientation}.png"] = (encoded(Image.fromarray(RGB), "PNG", exif=exif), expected)
    return found


def _shapes() -> dict[str, Kind]:
    frames = [Image.fromarray(np.full((8, 9, 3), value, dtype=np.uint8)) for value in (40, 250)]
    first = np.full((8, 9, 3), 40, dtype=np.uint8)
    dot, strip = np.full((1, 1, 3), 77, dtype=np.uint8), np.full((1, 10000, 3), 77, dtype=np.uint8)
    return {
        "animated.gif": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), first),
        "animated.webp": (encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True), first),
        "dot.png": (encoded(Image.fromarray(dot), "PNG"), dot),
        "strip.png": (encoded(Image.fromarray(strip), "PNG"), strip),
    }


def _refused() -> dict[str, Kind]:
    jpeg, png = encoded(Image.fromarray(RGB), "JPEG"), encoded(Image.fromarray(RGB), "PNG")
    blank = (b"\0" + bytes(2500)) * 20000
    return {
        "truncated.jpg": (jpeg[: len(jpeg) * 2 // 3], None),
        "truncated.png": (png[: len(png) * 2 // 3], None),
        "empty.png": (b"", None),
        "text.jpg": (b"hello, I am text\n", None),
        "float.tiff": (encoded(Image.fromarray(GREY).convert("F"), "TIFF"), None),
        "postscript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n", None),
        "bomb.png": (raw_png(20000, 20000, 1, 0, blank), None),
    }


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def shown(picture: Image.Image, kind: str, **options: Any) -> np.ndarray:
    """Return what a lossy format keeps of a picture."""
    return np.asarray(Image.open(io.BytesIO(encoded(picture, kind, **options))))


def repeated(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    weight = alpha[:, :, None] / 255
    return np.rint(colour * weight + 255 * (1 - weight)).astype(np.uint8)


def raw_png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """Write a PNG that Pillow cannot write itself: of any depth, or far too large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
