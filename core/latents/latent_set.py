"""Latents at random out of shards: held on the device, mapped into memory, or streamed from the disk.

Whichever it is, a batch is the same to the bit: only its indices and flips decide what is in it.

"held": one float16 tensor on the device, filled once. "mapped": the shards are mapped, their pages shared with other
processes and given back by the system when it needs memory. "streamed": nothing stays but a bounded number of open
files; each array is read when it is asked for, so that sets may be larger than the memory.

Who has not compared the shards with the manifest's sha256, which means reading all of them, has every array compared
with its CRC-32 as it is read.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ..errors import DataError
from ..system.machine import available_memory
from .readers import ArrayTable, Held, Mapped, Reader, Streamed
from .shards import AGAIN, FIELDS, INDEX, checksums_of, read_index
from .tar_members import BLOCK

Reading = Literal["held", "mapped", "streamed"]


class LatentSet:
    """One split of a folder of shards, read at random through its index.

    labels: int64 (N,). shape: (C, h, w). has_flip and has_std say which arrays a sample has. device: where batches
    are; that of `reading="held"` only, else the CPU. trusted: the shards are known to be what was written.

    Raises DataError for an index that does not fit its shards, and for a damaged array when it is read.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        names: Sequence[str],
        shape: tuple[int, int, int],
        reading: Reading = "mapped",
        device: torch.device | None = None,
        trusted: bool = False,
    ) -> None:
        self.shape = shape
        self.labels, table = read_table(folder, split, names, shape)
        self._table = replace(table, checksums=None) if trusted else table
        self._reader: Reader
        if reading == "streamed":
            self._reader = Streamed(self._table)
        elif reading == "held":
            self._reader = Held(self._table, device or torch.device("cpu"))
        else:
            self._reader = Mapped(self._table)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def has_flip(self) -> bool:
        return "flip.npy" in self._table.fields

    @property
    def has_std(self) -> bool:
        return "std.npy" in self._table.fields

    def batch(self, indices: np.ndarray, flip: np.ndarray | None = None, std: bool = False) -> torch.Tensor:
        """Gather latents as float32 (len(indices), C, h, w).

        flip: bool (len(indices),), which samples to take mirrored. std: the posterior's deviations instead.
        """
        assert (self.has_flip or flip is None) and (self.has_std or not std), "these latents lack what is asked for"
        plain, mirrored = ("std.npy", "flip.std.npy") if std else ("npy", "flip.npy")
        field = np.full(len(indices), self._table.fields.index(plain), dtype=np.int64)
        if flip is not None:
            field[flip] = self._table.fields.index(mirrored)
        return self._reader.take(field, np.asarray(indices, dtype=np.int64)).view(-1, *self.shape).float()


def best_reading(shard_bytes: int, array_bytes: int, device: torch.device) -> Reading:
    """Choose how to read sets of so many bytes, of which so many are arrays.

    On a GPU they are held if they fit in a third of what is free there, for networks need the rest; else they are
    mapped if they fit in half of the memory that is available, and streamed if not.
    """
    if device.type == "cuda" and array_bytes <= torch.cuda.mem_get_info(device)[0] // 3:
        return "held"
    memory = available_memory()
    return "mapped" if memory is None or shard_bytes <= memory // 2 else "streamed"


def read_table(
    folder: Path, split: str, names: Sequence[str], shape: tuple[int, int, int]
) -> tuple[np.ndarray, ArrayTable]:
    """Return a split's labels, int64 (N,), and where its arrays lie.

    Raises DataError for an index that is damaged, lacks the split, or points out of its shards, whatever it says.
    """
    index = read_index(folder)
    if not {f"{split}.label", f"{split}.shard", f"{split}.npy"} <= index.keys():
        raise DataError(f"{folder / INDEX} lists no {split!r} samples", AGAIN)
    fields = tuple(field for field in FIELDS if f"{split}.{field}" in index)
    shard, labels = index[f"{split}.shard"], index[f"{split}.label"]
    offsets = [index[f"{split}.{field}"] for field in fields]
    checksums = [checksums_of(index, split, field) for field in fields]
    known = [each for each in checksums if each is not None]
    num_bytes = 2 * int(np.prod(shape))
    paths = [folder / name for name in names]
    sizes = np.asarray([_size(path) for path in paths], dtype=np.int64)
    whole = all(each.shape == labels.shape for each in (shard, *offsets, *known))
    whole = whole and bool(np.all((shard >= 0) & (shard < len(paths)))) and bool(np.all(np.diff(shard) >= 0))
    whole = whole and all(bool(np.all((each >= BLOCK) & (each <= sizes[shard] - num_bytes))) for each in offsets)
    whole = whole and ({"flip.npy", "std.npy"} <= set(fields)) == ("flip.std.npy" in fields)
    if not whole:
        raise DataError(f"{folder / INDEX} does not fit its shards", AGAIN)
    sums = np.stack(known) if len(known) == len(fields) else None
    return labels, ArrayTable(paths, fields, shard, np.stack(offsets), sums, num_bytes)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", AGAIN) from None
