"""Pictures made of smooth noise, each like no other, and what people do to pictures that makes copies of them."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image


def landscape(number: int, size: int = 96, colours: float = 1.0) -> np.ndarray:
    """Paint a picture, uint8 (size, size, 3), with the contrast of a photograph; each number is another picture."""
    noise = np.random.default_rng([7, number])
    page = np.zeros((size, size, 3))
    for grain, strength in ((4, 60.0), (9, 35.0), (24, 12.0)):
        colour = noise.normal(0, strength, (grain, grain, 3)) * colours
        coarse = noise.normal(0, strength, (grain, grain, 1)) + 0.4 * colour
        for channel in range(3):
            layer = Image.fromarray(coarse[:, :, channel].astype(np.float32), "F")
            page[:, :, channel] += np.asarray(layer.resize((size, size), Image.Resampling.BICUBIC))
    return (page + 128).clip(20, 225).round().astype(np.uint8)


def bright(pixels: np.ndarray) -> np.ndarray:
    return (pixels.astype(np.int16) + 25).clip(0, 255).astype(np.uint8)


def scaled(pixels: np.ndarray, factor: float) -> np.ndarray:
    size = round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def png(pixels: np.ndarray) -> bytes:
    return encoded(pixels, "PNG")


def jpeg(pixels: np.ndarray, quality: int = 70) -> bytes:
    return encoded(pixels, "JPEG", quality=quality)


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


# What makes a near copy of a picture: the bytes of another file.
EDITS: dict[str, Callable[[np.ndarray], bytes]] = {
    "jpeg": jpeg,
    "half": lambda pixels: png(scaled(pixels, 0.5)),
    "larger": lambda pixels: png(scaled(pixels, 1.5)),
    "bright": lambda pixels: png(bright(pixels)),
    "cropped": lambda pixels: png(pixels[1:, 1:]),
}
