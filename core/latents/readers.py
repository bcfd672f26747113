"""Three ways to read arrays at random out of shards, and what they have in common: where the arrays lie."""

import os
import threading
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..errors import DataError
from ..system.transfer import to_device
from .shards import AGAIN

_MOST_OPEN = 512  # files; systems allow 1,024 by default


@dataclass(frozen=True)
class ArrayTable:
    """Where the F float16 arrays of each of N samples lie, all of `num_bytes`.

    paths: of the shards. shard: which of them, rising, int64 (N,). offsets: int64 (F, N). checksums: CRC-32, uint32
    (F, N), by which what is read is checked; None where it need not or cannot be.
    """

    paths: list[Path]
    fields: tuple[str, ...]
    shard: np.ndarray
    offsets: np.ndarray
    checksums: np.ndarray | None
    num_bytes: int

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def num_array_bytes(self) -> int:
        """The size of all arrays together."""
        return self.offsets.size * self.num_bytes

    def check(self, found: Iterable[bytes | memoryview], field: np.ndarray, sample: np.ndarray) -> None:
        """Compare what was read with its checksums, if there are any. Raises DataError naming the shard."""
        if self.checksums is None:
            return
        sums = self.checksums[field, sample].tolist()
        for row, (content, checksum) in enumerate(zip(found, sums, strict=True)):
            if zlib.crc32(content) != checksum:
                path, place = self.paths[self.shard[sample[row]]], self.offsets[field[row], sample[row]]
                message = f"{path} is damaged at byte {place}: the latent there is not what was written"
                raise DataError(message, AGAIN)


class Reader(Protocol):
    """Reads arrays by field and sample."""

    def take(self, field: np.ndarray, sample: np.ndarray) -> torch.Tensor:
        """Return the arrays of fields and samples, each int64 (B,), as float16 (B, num_bytes / 2)."""


class Mapped:
    """Reads from memory maps; the system keeps and drops their pages as it sees fit."""

    def __init__(self, table: ArrayTable) -> None:
        self._table = table
        self._maps = [_map(path).data for path in table.paths]

    def take(self, field: np.ndarray, sample: np.ndarray) -> torch.Tensor:
        table, maps, size = self._table, self._maps, self._table.num_bytes
        shards, offsets = table.shard[sample].tolist(), table.offsets[field, sample].tolist()
        found = [maps[shard][start : start + size] for shard, start in zip(shards, offsets, strict=True)]
        table.check(found, field, sample)
        return _tensor(found, size)


class Held:
    """Reads from one tensor on the device, filled here once."""

    def __init__(self, table: ArrayTable, device: torch.device) -> None:
        arrays = torch.empty((len(table.fields), len(table), table.num_bytes // 2), dtype=torch.float16, device=device)
        bounds = np.searchsorted(table.shard, np.arange(len(table.paths) + 1))
        for path, start, stop in zip(table.paths, bounds[:-1], bounds[1:], strict=True):
            content, samples = _map(path), np.arange(start, stop)
            for number, offsets in enumerate(table.offsets[:, start:stop]):
                rows = _rows(content, offsets, table.num_bytes)
                table.check((row.data for row in rows), np.full(len(rows), number), samples)
                arrays[number, start:stop] = torch.from_numpy(rows).view(torch.float16).to(device)
        self._arrays = arrays.flatten(0, 1)
        self._num_samples = len(table)

    def take(self, field: np.ndarray, sample: np.ndarray) -> torch.Tensor:
        rows = torch.from_numpy(field * self._num_samples + sample)
        return self._arrays.index_select(0, to_device(rows, self._arrays.device))


class Streamed:
    """Reads from the disk what is asked for and nothing else."""

    def __init__(self, table: ArrayTable) -> None:
        self._table = table
        self._files = _OpenFiles(table.paths)

    def take(self, field: np.ndarray, sample: np.ndarray) -> torch.Tensor:
        table, size = self._table, self._table.num_bytes
        shards, offsets = table.shard[sample].tolist(), table.offsets[field, sample].tolist()
        places = list(zip(shards, offsets, strict=True))
        for shard, start in places:  # The disk serves them all at once.
            self._files.announce(shard, size, start)
        found = [self._files.read(shard, size, start) for shard, start in places]
        for content, (shard, _) in zip(found, places, strict=True):
            if len(content) < size:
                raise DataError(f"{table.paths[shard]} is damaged: it is shorter than it was", AGAIN)
        table.check(found, field, sample)
        return _tensor(found, size)


class _OpenFiles:
    """Reads files at offsets; keeps them open, but not more than a system bears."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()

    def announce(self, number: int, size: int, offset: int) -> None:
        """Let the system fetch what will be read from a file that is open, without waiting, where it knows how."""
        handle = self._open.get(number)
        if handle is not None and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, offset, size, os.POSIX_FADV_WILLNEED)

    def read(self, number: int, size: int, offset: int) -> bytes:
        """Return the bytes there; fewer where the file ends."""
        handle = self._open.get(number)
        if handle is not None:
            return self._read(handle, size, offset)
        handle = os.open(self._paths[number], os.O_RDONLY | getattr(os, "O_BINARY", 0))
        with self._lock:
            keep = number not in self._open and len(self._open) < _MOST_OPEN
            if keep:
                self._open[number] = handle
        try:
            return self._read(handle, size, offset)
        finally:
            if not keep:
                os.close(handle)

    def _read(self, handle: int, size: int, offset: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(handle, size, offset)
        with self._lock:  # Windows reads only where a file's one position is.
            os.lseek(handle, offset, os.SEEK_SET)
            return os.read(handle, size)

    def __del__(self) -> None:
        for handle in self._open.values():
            os.close(handle)


def _map(path: Path) -> np.ndarray:
    """Map a file, uint8, copy on write. It does not stay open: a system bears fewer open files than a set may have."""
    try:
        str(path).encode()
    except UnicodeEncodeError:  # torch knows no names but text.
        return np.memmap(path, dtype=np.uint8, mode="r")
    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8).numpy()


def _rows(content: np.ndarray, offsets: np.ndarray, num_bytes: int) -> np.ndarray:
    """Copy arrays out of a shard, uint8 (n, num_bytes): at once where they lie evenly, as is usual."""
    steps = np.diff(offsets)
    if len(steps) and steps[0] >= num_bytes and np.all(steps == steps[0]):
        first = content[offsets[0] : offsets[-1] + num_bytes]
        view = np.lib.stride_tricks.as_strided(first, (len(offsets), num_bytes), (int(steps[0]), 1), writeable=False)
        return np.array(view)
    rows = [content[start : start + num_bytes] for start in offsets]
    return np.stack(rows) if rows else np.empty((0, num_bytes), dtype=np.uint8)


def _tensor(pieces: Sequence[bytes | memoryview], num_bytes: int) -> torch.Tensor:
    if not pieces:
        return torch.empty((0, num_bytes // 2), dtype=torch.float16)
    return torch.frombuffer(bytearray().join(pieces), dtype=torch.float16).view(-1, num_bytes // 2)
