"""Arrays of which a few rows are read at a time: in memory where they are small, else where they lie on the disk.

What lies compressed is unpacked into a temporary file, which is gone with the process.
"""

import math
import os
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from gzip import GzipFile
from pathlib import Path
from typing import IO

import numpy as np

from ..errors import DataError
from ..files import open_plain, saying_disk_full
from .archive import require_possible
from .budget import MEMORY
from .npy import read_header

_IN_MEMORY = 64 << 20  # bytes of an array that is kept in memory
_CHUNK = 4 << 20
_LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name


@dataclass(frozen=True)
class Rows:
    """An array with its first axis read by need. stored: the bytes that it takes where it is kept."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], np.ndarray]  # rows from, and up to but without
    stored: int

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield all rows, some megabytes at a time."""
        step = max(1, _CHUNK // max(1, self.row_bytes))
        for start in range(0, len(self), step):
            yield self.read(start, min(start + step, len(self)))


def in_memory(array: np.ndarray, stored: int) -> Rows:
    """Return the rows of an array."""
    return Rows(array.shape, array.dtype, lambda start, stop: array[start:stop], stored)


def unpacked_rows(
    stream: IO[bytes] | GzipFile, shape: tuple[int, ...], dtype: np.dtype, stored: int, name: str
) -> Rows:
    """Read all numbers that are left of a stream, into memory or a temporary file.

    Raises DataError naming the array where they are more or fewer than its shape says.
    """
    size = math.prod(shape) * dtype.itemsize
    if size <= _IN_MEMORY:
        data = stream.read(size + 1)
        _require_size(len(data), size, name, shape)
        return in_memory(np.frombuffer(data, dtype).reshape(shape), stored)
    file, held = tempfile.TemporaryFile(), 0  # noqa: SIM115  It closes with the rows.
    with saying_disk_full(Path(tempfile.gettempdir())):
        while held <= size and (chunk := stream.read(_CHUNK)):
            held += file.write(chunk)
        file.flush()
    _require_size(held, size, name, shape)
    return on_disk(file, 0, shape, dtype, stored, name)


def on_disk(file: IO[bytes], offset: int, shape: tuple[int, ...], dtype: np.dtype, stored: int, name: str) -> Rows:
    """Return rows that lie one after the other in an open file; several threads may read them."""
    row = math.prod(shape[1:]) * dtype.itemsize

    def read(start: int, stop: int) -> np.ndarray:
        data = os.pread(file.fileno(), (stop - start) * row, offset + start * row)
        if len(data) != (stop - start) * row:
            raise DataError(f"{name} was cut off while it was read", "copy it again")
        return np.frombuffer(data, dtype).reshape(stop - start, *shape[1:])

    return Rows(shape, dtype, read, stored)


def npz_rows(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> Rows:
    """Open one array of an .npz, whose checksum is compared.

    Raises DataError for what claims too much; for damage whatever zipfile, numpy and Python's parser raise.
    """
    require_possible(archive, info, name)
    with archive.open(info) as stream:
        shape, fortran_order, dtype = read_header(stream, info.file_size)
        if fortran_order and len(shape) > 1:
            MEMORY.take(info.file_size, info.compress_size, name)
            array = np.frombuffer(stream.read(), dtype).reshape(shape, order="F")
            return in_memory(array, info.compress_size)
        start = stream.tell()
        if info.compress_type != zipfile.ZIP_STORED or info.file_size <= _IN_MEMORY:
            return unpacked_rows(stream, shape, dtype, info.compress_size, name)
        while stream.read(_CHUNK):  # compares the checksum at the end
            pass
    file = open_plain(Path(str(archive.filename)))
    file.seek(info.header_offset + _LOCAL_HEADER - 4)
    beside = sum(struct.unpack("<HH", file.read(4)))  # the name, and what else its header holds
    return on_disk(file, info.header_offset + _LOCAL_HEADER + beside + start, shape, dtype, info.compress_size, name)


def _require_size(held: int, size: int, name: str, shape: tuple[int, ...]) -> None:
    if held != size:
        raise DataError(
            f"{name} holds {'more' if held > size else 'less'} than the {shape} of its header", "copy it again"
        )
