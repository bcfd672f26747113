"""Three ways to read fields at random out of shards, and what they share: where each sample's bytes lie."""

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from pathlib import Path

import numpy as np
import torch

from ..errors import DataError
from ..runs.commands import mending
from ..runs.roles import LATENTS
from ..system.machine import open_files
from ..system.transfer import to_device
from .fields import TEXT, Field

_MOST_OPEN = 512  # files; systems allow 1,024 by default
_AT_ONCE = 4096  # samples copied to the device
Content = bytes | memoryview


@dataclass(frozen=True)
class FieldTable:
    """Where one field of each of N samples lies: once, or in a row for each of R views; see `view_prefixes`.

    paths: of the shards. shard: which of them, rising, int64 (N,). offsets: int64 (R, N). sizes: bytes of every
    sample, or int64 (R, N) where they differ. checksums: CRC-32, uint32 (R, N), for checking what is read; None where
    that is not needed or not possible. mirrored: whether every second row is of mirrored images.
    """

    form: Field
    paths: list[Path]
    shard: np.ndarray
    offsets: np.ndarray
    sizes: int | np.ndarray
    checksums: np.ndarray | None
    mirrored: bool = False

    @property
    def total_bytes(self) -> int:
        """The size of all samples together."""
        return int(np.broadcast_to(self.sizes, self.offsets.shape).sum())

    @property
    def dtype(self) -> torch.dtype:
        kind: torch.dtype = torch.uint8 if self.form.dtype == TEXT else getattr(torch, self.form.dtype)
        return kind

    def places(self, row: np.ndarray, sample: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """Yield shard, offset and size of fields by row and sample, each int64 (B,)."""
        sizes = self.sizes[row, sample].tolist() if isinstance(self.sizes, np.ndarray) else repeat(self.sizes)
        return zip(self.shard[sample].tolist(), self.offsets[row, sample].tolist(), sizes, strict=False)

    def check(self, found: Iterable[Content], row: np.ndarray, sample: np.ndarray) -> None:
        """Compare what was read with its checksums, if there are any. Raises DataError naming the shard."""
        if self.checksums is None:
            return
        sums = self.checksums[row, sample].tolist()
        for place, (content, checksum) in enumerate(zip(found, sums, strict=True)):
            if zlib.crc32(content) != checksum:
                path, offset = self.paths[self.shard[sample[place]]], self.offsets[row[place], sample[place]]
                message = f"{path} is damaged at byte {offset}: the latent there differs from what was written"
                raise DataError(message, mending(path.parent, LATENTS))


class MappedFiles:
    """Memory maps, whose pages the system keeps or drops."""

    def __init__(self, paths: list[Path]) -> None:
        self._maps = [_map(path).data for path in paths]

    def read(self, places: Iterable[tuple[int, int, int]]) -> Sequence[Content]:
        maps = self._maps
        return [maps[shard][start : start + size] for shard, start, size in places]


class StreamedFiles:
    """Reads only what is asked for from the disk; keeps files open, fewer than the system's limit."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        allowed = open_files()
        few = allowed // 8 if 0 <= allowed < 2 * _MOST_OPEN else _MOST_OPEN  # Every field has a reader of its own.
        self._opened = lru_cache(few)(lambda shard: _OpenFile(paths[shard]))

    def read(self, places: Iterable[tuple[int, int, int]]) -> Sequence[Content]:
        places, opened = list(places), self._opened
        if hasattr(os, "posix_fadvise"):
            for shard, start, size in places:  # The disk reads them in parallel.
                opened(shard).announce(start, size)
        found = [opened(shard).read(start, size) for shard, start, size in places]
        for content, (shard, _, size) in zip(found, places, strict=True):
            if len(content) < size:
                path = self._paths[shard]
                raise DataError(f"{path} is damaged: it is shorter than it was", mending(path.parent, LATENTS))
        return found


class _OpenFile:
    """A file that closes with its last reference; several threads may read it at once."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY)

    def announce(self, start: int, size: int) -> None:
        os.posix_fadvise(self._handle, start, size, os.POSIX_FADV_WILLNEED)

    def read(self, start: int, size: int) -> bytes:
        return os.pread(self._handle, size, start)

    def __del__(self) -> None:
        os.close(self._handle)


class Reader:
    """Reads one field out of files."""

    def __init__(self, table: FieldTable, files: MappedFiles | StreamedFiles) -> None:
        self.table, self._files = table, files

    def pieces(self, row: np.ndarray, sample: np.ndarray) -> Sequence[Content]:
        """Return the bytes of samples, by row and sample, each int64 (B,)."""
        found = self._files.read(self.table.places(row, sample))
        self.table.check(found, row, sample)
        return found

    def take(self, row: np.ndarray, sample: np.ndarray) -> torch.Tensor:
        """Return the arrays of samples, all of one size, as a tensor (B, numbers of one)."""
        found = self.pieces(row, sample)
        if not found:
            return torch.empty((0, self.table.sizes // self.table.dtype.itemsize), dtype=self.table.dtype)  # type: ignore
        return torch.frombuffer(bytearray().join(found), dtype=self.table.dtype).view(len(found), -1)


class Held:
    """Reads a field of one size from one tensor on the device, filled here once."""

    def __init__(self, table: FieldTable, device: torch.device) -> None:
        assert isinstance(table.sizes, int), "fields whose sizes differ are read from files"
        self.table, self._num_samples = table, len(table.shard)
        reader = Reader(table, MappedFiles(table.paths))
        shape = (*table.offsets.shape, table.sizes // table.dtype.itemsize)
        arrays = torch.empty(shape, dtype=table.dtype, device=device)
        for row in range(len(arrays)):
            for start in range(0, self._num_samples, _AT_ONCE):
                samples = np.arange(start, min(start + _AT_ONCE, self._num_samples))
                arrays[row, start : start + _AT_ONCE] = reader.take(np.full(len(samples), row), samples)
        # GPUs cannot gather 16-bit unsigned numbers, so gather their bytes.
        self._arrays = arrays.flatten(0, 1).view(torch.int16 if table.dtype == torch.uint16 else table.dtype)

    def take(self, row: np.ndarray, sample: np.ndarray) -> torch.Tensor:
        rows = torch.from_numpy(row * self._num_samples + sample)
        return self._arrays.index_select(0, to_device(rows, self._arrays.device)).view(self.table.dtype)


def _map(path: Path) -> np.ndarray:
    """Map a file, uint8, copy on write. It does not stay open: a set may have more files than the system's limit."""
    try:
        str(path).encode()
    except UnicodeEncodeError:  # torch takes names as text only.
        return np.memmap(path, dtype=np.uint8, mode="r")
    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8).numpy()
