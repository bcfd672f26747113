"""What images are known by: digests of bytes and of pixels, a hash and a thumbnail of what they look like."""

import hashlib
import tempfile
from dataclasses import dataclass

import numpy as np

from ..images.dataset import ImageSource
from . import perceptual

_IN_MEMORY = 256 << 20  # bytes of one array; larger ones lie in a temporary file


@dataclass(frozen=True)
class Fingerprint:
    """What one image is known by: digests of bytes and of pixels, a small picture, and what speaks for keeping it."""

    content: bytes  # sha256
    pixels: bytes  # sha256
    small: np.ndarray  # uint8 (32, 32, 3)
    area: int  # pixels
    weight: int  # bytes of the file


def fingerprint_of(source: ImageSource, index: int, content: bytes | np.ndarray) -> Fingerprint:
    """Decode one image and take its fingerprint. Raises DataError where it cannot be decoded."""
    image = source.image(index, content)
    pixels = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()
    weight = len(content) if isinstance(content, bytes) else content.nbytes
    small = perceptual.shrunk(image)
    return Fingerprint(source.content_hash(index), pixels, small, image.shape[0] * image.shape[1], weight)


class Fingerprints:
    """The fingerprints of N images, in arrays. Images that were never added are in no group."""

    def __init__(self, count: int) -> None:
        self.known = np.zeros(count, dtype=bool)
        self.content, self.pixels = (scratch((count, 32), np.uint8) for _ in range(2))
        self.thumbnails = scratch((count, perceptual.THUMB, perceptual.THUMB, 3), np.uint8)
        self.hashes, self.flipped = (np.zeros(count, dtype=np.uint64) for _ in range(2))
        self.area, self.weight = (np.zeros(count, dtype=np.int64) for _ in range(2))

    def add(self, rows: list[int], fingerprints: list[Fingerprint]) -> None:
        """Add some fingerprints; their small pictures are hashed together, which is faster."""
        small = np.stack([each.small for each in fingerprints])
        self.known[rows] = True
        self.content[rows] = np.frombuffer(b"".join(each.content for each in fingerprints), np.uint8).reshape(-1, 32)
        self.pixels[rows] = np.frombuffer(b"".join(each.pixels for each in fingerprints), np.uint8).reshape(-1, 32)
        self.thumbnails[rows] = perceptual.thumbnails(small)
        self.hashes[rows] = perceptual.hashes(small)
        self.flipped[rows] = perceptual.hashes(perceptual.mirrored(small))
        self.area[rows], self.weight[rows] = (
            [each.area for each in fingerprints],
            [each.weight for each in fingerprints],
        )

    def order(self, first: np.ndarray) -> np.ndarray:
        """Order images by what is rather kept: those marked `first`, then the larger, then the heavier file.

        Returns the place of each in that order, int64 (N,).
        """
        order = np.lexsort((np.arange(len(self.known)), -self.weight, -self.area, ~first))
        places = np.empty(len(order), dtype=np.int64)
        places[order] = np.arange(len(order))
        return places

    def stand_ins(self, places: np.ndarray) -> np.ndarray:
        """Return for each image the one of equal pixels that is kept first, int64 (N,); itself where it is unknown."""
        stands = np.arange(len(self.known))
        rows = np.flatnonzero(self.known)
        rows = rows[np.argsort(places[rows], kind="stable")]
        digests = np.ascontiguousarray(self.pixels[rows]).view("V32").reshape(-1)
        _, firsts, inverse = np.unique(digests, return_index=True, return_inverse=True)
        stands[rows] = rows[firsts[inverse]]
        return stands


def scratch(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Return an array of zeros; a large one lies in a temporary file, which goes with it."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size <= _IN_MEMORY:
        return np.zeros(shape, dtype=dtype)
    return np.memmap(tempfile.TemporaryFile(), dtype=dtype, mode="w+", shape=shape)
