"""Latent shards: plain WebDataset tars that anyone can open, and the index that makes them fast to read.

A sample is `KEY.npy` (its latent, float16), `KEY.flip.npy` (that of the mirrored image, where both were encoded),
`KEY.cls` (its label) and `KEY.json` (where it came from); a variational autoencoder adds `KEY.std.npy` and
`KEY.flip.std.npy`, the posterior's standard deviation. Keys are zero-padded sample numbers. Every header has mtime 0,
so that equal samples give equal bytes. `index.safetensors` holds the byte offset of every array.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from .. import files
from ..errors import DataError
from .archives import TarIndex
from .npy import read_header

INDEX = "index.safetensors"
FIELDS = ("npy", "flip.npy", "std.npy", "flip.std.npy")
_BLOCK = 512
_AGAIN = "remove it, then encode again with --replace"


@dataclass(frozen=True)
class LatentSample:
    """One sample of a shard. arrays: field of FIELDS → float16 (C, h, w)."""

    arrays: dict[str, np.ndarray]
    label: int
    name: str

    def __post_init__(self) -> None:
        assert "npy" in self.arrays and set(self.arrays) <= set(FIELDS), f"fields {list(self.arrays)}"
        assert all(array.dtype == np.float16 for array in self.arrays.values()), "latents are float16"


def shard_name(split: str, number: int) -> str:
    """Name a shard: `shard-000000.tar` for training, `val-000000.tar` for validation."""
    return f"{'shard' if split == 'train' else split}-{number:06d}.tar"


def write_shard(path: Path, first_key: int, samples: Iterable[LatentSample]) -> None:
    """Write samples, keyed from `first_key` on, as one tar: whole or not at all."""

    def write(temporary: Path) -> None:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for key, sample in enumerate(samples, first_key):
                for field, array in sample.arrays.items():
                    _add(tar, f"{key:09d}.{field}", _npy(array))
                _add(tar, f"{key:09d}.cls", str(sample.label).encode())
                source = {"name": sample.name, "label": sample.label}
                _add(tar, f"{key:09d}.json", json.dumps(source, ensure_ascii=True).encode())

    files.write_atomically(path, write)


def read_shard(path: Path) -> Iterator[tuple[str, str, int, bytes]]:
    """Yield (key, field, offset of the content, content) of every member. DataError if it is no whole tar.

    A member's bytes are taken as they are: only the manifest's sha256 knows whether they are what was written.
    """
    try:
        with path.open("rb") as file, TarIndex(path) as index, tarfile.open(fileobj=index, mode="r:") as tar:
            size = path.stat().st_size
            for member in tar:
                key, _, field = member.name.partition(".")
                if not member.isreg() or member.issparse():
                    raise DataError(f"{path} holds {member.name!r}, which is no file", _AGAIN)
                if not 0 <= member.size <= size - member.offset_data:
                    raise DataError(f"{path} is damaged: it is cut off inside {member.name!r}", _AGAIN)
                file.seek(member.offset_data)
                yield key, field, member.offset_data, file.read(member.size)
            # tarfile takes a header that it cannot read for the end; the end is two blocks of zeros.
            file.seek(tar.offset)
            rest = file.read()
            if len(rest) < 2 * _BLOCK or any(rest):
                raise DataError(f"{path} is damaged at byte {tar.offset}", _AGAIN)
    except (tarfile.TarError, EOFError, ValueError, OverflowError, LookupError, OSError) as error:
        raise DataError(f"{path} is damaged: {error}", _AGAIN) from None


def write_index(folder: Path, shards: dict[str, list[str]]) -> None:
    """Write the index over shards: split → their names in order. Arrays: SPLIT.shard, SPLIT.label and offsets.

    Raises DataError for a shard that is no whole tar, or whose samples are not the next ones of its split.
    """
    tensors = _index_of(folder, shards)
    files.write_atomically(folder / INDEX, lambda temporary: save_file(tensors, temporary))


def check_index(folder: Path, shards: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """Return each split's labels, int64, after reading all shards and finding in them what the index says.

    Raises DataError naming the shard as `write_index` does, or the index that differs.
    """
    index, found = _read_index(folder), _index_of(folder, shards)
    if index.keys() != found.keys() or any(not np.array_equal(index[key], found[key]) for key in found):
        raise DataError(f"{folder / INDEX} is not the index of the shards beside it", _AGAIN)
    return {split: found[f"{split}.label"] for split in shards}


def _index_of(folder: Path, shards: dict[str, list[str]]) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for split, names in shards.items():
        rows: dict[str, list[int]] = {"shard": [], "label": [], "npy": []}
        for number, name in enumerate(names):
            for key, field, offset, content in read_shard(folder / name):
                try:
                    if field in FIELDS:
                        rows.setdefault(field, []).append(offset + _header_size(content))
                    elif field == "cls":
                        rows["label"].append(int(content))
                        rows["shard"].append(number)
                    elif any(len(row) != int(key) + 1 for row in rows.values()):
                        raise ValueError("the sample is not whole, or not the next one of its split")
                except ValueError as error:
                    raise DataError(f"{folder / name} is damaged at {key}.{field}: {error}", _AGAIN) from None
        tensors |= {f"{split}.{key}": np.asarray(value, dtype=np.int64) for key, value in rows.items()}
    return tensors


def _read_index(folder: Path) -> dict[str, np.ndarray]:
    try:
        index: dict[str, np.ndarray] = load_file(folder / INDEX)
    except (OSError, SafetensorError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{folder / INDEX} cannot be read: {error}", _AGAIN) from None
    for name, array in index.items():
        if array.dtype != np.int64 or array.ndim != 1:
            raise DataError(f"{folder / INDEX} is damaged: {name} is {array.dtype} of shape {array.shape}", _AGAIN)
    return index


class LatentSet:
    """One split of a folder of shards, read at random through its index and memory maps.

    labels: int64 (N,). shape: (C, h, w). has_flip and has_std say which arrays a sample has.
    """

    def __init__(self, folder: Path, split: str, names: list[str], shape: tuple[int, int, int]) -> None:
        index = _read_index(folder)
        if not {f"{split}.label", f"{split}.shard", f"{split}.npy"} <= index.keys():
            raise DataError(f"{folder / INDEX} lists no {split!r} samples", _AGAIN)
        self.shape = shape
        self.labels = index[f"{split}.label"]
        self._shard = index[f"{split}.shard"]
        self._offsets = {field: index[f"{split}.{field}"] for field in FIELDS if f"{split}.{field}" in index}
        self._maps = [_mapped(folder / name) for name in names]
        self._check(folder, names)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def has_flip(self) -> bool:
        return "flip.npy" in self._offsets

    @property
    def has_std(self) -> bool:
        return "std.npy" in self._offsets

    def batch(self, indices: np.ndarray, flip: np.ndarray | None = None, std: bool = False) -> torch.Tensor:
        """Gather latents as float32 (len(indices), C, h, w).

        flip: bool (len(indices),), which samples to take mirrored. std: the posterior's deviations instead.
        """
        assert (self.has_flip or flip is None) and (self.has_std or not std), "these latents lack what is asked for"
        plain, mirrored = ("std.npy", "flip.std.npy") if std else ("npy", "flip.npy")
        out = np.empty((len(indices), *self.shape), dtype=np.float16)
        count = int(np.prod(self.shape))
        for row, sample in enumerate(indices):
            offsets = self._offsets[mirrored if flip is not None and flip[row] else plain]
            raw = np.frombuffer(self._maps[self._shard[sample]], np.float16, count, int(offsets[sample]))
            out[row] = raw.reshape(self.shape)
        return torch.from_numpy(out).float()

    def _check(self, folder: Path, names: list[str]) -> None:
        """Make sure that no offset points outside its shard, whatever the index says."""
        sizes = np.asarray([len(mapped) for mapped in self._maps], dtype=np.int64)
        size = 2 * int(np.prod(self.shape))
        whole = len(self._shard) == len(self.labels)
        whole = whole and (self.has_flip and self.has_std) == ("flip.std.npy" in self._offsets)
        whole = whole and bool(np.all((self._shard >= 0) & (self._shard < len(names))))
        for offsets in self._offsets.values():
            whole = whole and len(offsets) == len(self.labels)
            whole = whole and bool(np.all((offsets >= _BLOCK) & (offsets <= sizes[self._shard] - size)))
        if not whole:
            raise DataError(f"{folder / INDEX} does not fit its shards", _AGAIN)


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:  # ValueError: it is empty.
        raise DataError(f"{path} cannot be read: {error}", _AGAIN) from None


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _header_size(content: bytes) -> int:
    """Return how many bytes come before the numbers of an `.npy`; ValueError unless those are float16, all of them."""
    buffer = io.BytesIO(content)
    header = read_header(buffer)
    if header.dtype != np.dtype("<f2") or header.fortran_order or len(header.shape) != 3:
        raise ValueError(f"{header.dtype} of shape {header.shape}, not float16 of three axes")
    if len(content) - buffer.tell() != header.num_bytes:
        raise ValueError(f"{len(content):,} bytes, too many or too few for shape {header.shape}")
    return buffer.tell()
