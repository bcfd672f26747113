"""Latent shards: plain WebDataset tars that anyone can open, and the index that makes them fast to read.

A sample is `KEY.npy` (its latent, float16), `KEY.flip.npy` (that of the mirrored image, where both were encoded),
`KEY.cls` (its label) and `KEY.json` (where it came from); a variational autoencoder adds `KEY.std.npy` and
`KEY.flip.std.npy`, the posterior's standard deviation. Keys are zero-padded sample numbers. Every header has mtime 0,
so that equal samples give equal bytes. `index.safetensors` holds the byte offset and the CRC-32 of every array.
"""

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from .. import files
from ..distributed.tensor_file import saying_damaged
from ..errors import DataError, as_data_error
from ..images.npy import read_header
from .tar_members import BLOCK, Members, ending

INDEX = "index.safetensors"
FIELDS = ("npy", "flip.npy", "std.npy", "flip.std.npy")
AGAIN = "remove it, then encode again with --replace"
_CHECKSUM = "crc32"


@dataclass(frozen=True)
class LatentSample:
    """One sample of a shard. arrays: field of FIELDS → float16 (C, h, w)."""

    arrays: dict[str, np.ndarray]
    label: int
    name: str

    def __post_init__(self) -> None:
        assert "npy" in self.arrays and set(self.arrays) <= set(FIELDS), f"fields {list(self.arrays)}"
        assert all(array.dtype == np.float16 for array in self.arrays.values()), "latents are float16"


@dataclass(frozen=True)
class Shard:
    """What a shard holds, for the index and the manifest; of n samples.

    labels: int64 (n,). offsets: field → where each sample's array begins, int64 (n,). checksums: field → CRC-32 of
    the array's bytes, uint32 (n,). sha256: of the file, hex.
    """

    name: str
    labels: np.ndarray
    offsets: dict[str, np.ndarray]
    checksums: dict[str, np.ndarray]
    sha256: str

    def __len__(self) -> int:
        return len(self.labels)


def shard_name(split: str, number: int) -> str:
    """Name a shard: `shard-000000.tar` for training, `val-000000.tar` for validation."""
    return f"{'shard' if split == 'train' else split}-{number:06d}.tar"


def write_shard(path: Path, first_key: int, samples: Iterable[LatentSample]) -> Shard:
    """Write samples, keyed from `first_key` on, as one tar: whole or not at all. Returns what it holds."""
    rows, digest = _Rows(), hashlib.sha256()

    def write(temporary: Path) -> None:
        members, position = Members(), 0
        with temporary.open("wb", buffering=1 << 18) as file:

            def put(data: bytes) -> None:
                nonlocal position
                digest.update(data)
                position += file.write(data)

            for key, sample in enumerate(samples, first_key):
                for field, array in sample.arrays.items():
                    header, content = _npy_header(array.shape), np.ascontiguousarray(array).tobytes()
                    rows.add(field, position + BLOCK + len(header), content)
                    put(members.member(key, field, header + content))
                source = json.dumps({"name": sample.name, "label": sample.label}, ensure_ascii=True)
                put(members.member(key, "cls", str(sample.label).encode()))
                put(members.member(key, "json", source.encode()))
                rows.labels.append(sample.label)
            put(ending(position))

    files.write_atomically(path, write)
    return rows.shard(path.name, digest.hexdigest())


def load_shard(path: Path, first_key: int) -> tuple[Shard, list[LatentSample]]:
    """Read a shard once: what it holds, and its samples.

    Raises DataError if it is no whole tar, or its samples are not whole and keyed from `first_key` on.
    """
    data = path.read_bytes()
    rows, samples = _Rows(), list[LatentSample]()
    arrays: dict[str, np.ndarray] = {}
    for key, field, offset, content in _members(path, data):
        with as_data_error(f"{path} is damaged at {key}.{field}", AGAIN):
            if key != f"{first_key + len(samples):09d}":
                raise ValueError("the sample is not whole, or not the next one of its split")
            if field in FIELDS:
                arrays[field] = _array(content)
                rows.add(field, offset + len(content) - arrays[field].nbytes, content[-arrays[field].nbytes :])
            elif field == "cls":
                rows.labels.append(int(content))
            elif field == "json":
                rows.require_whole(len(samples) + 1)
                samples.append(LatentSample(arrays, rows.labels[-1], str(json.loads(content)["name"])))
                arrays = {}
    if arrays or len(rows.labels) != len(samples):
        raise DataError(f"{path} is damaged: its last sample is not whole", AGAIN)
    return rows.shard(path.name, hashlib.sha256(data).hexdigest()), samples


def read_shard(path: Path) -> Iterator[tuple[str, str, int, bytes]]:
    """Yield (key, field, offset of the content, content) of every member. DataError if it is no whole tar.

    A member's bytes are taken as they are: only the manifest's sha256 knows whether they are what was written.
    """
    return _members(path, path.read_bytes())


def write_index(folder: Path, shards: Mapping[str, Sequence[Shard]]) -> None:
    """Write the index over shards: split → what they hold, in order. Arrays: SPLIT.shard, SPLIT.label, and of each
    field SPLIT.FIELD, the offsets, and SPLIT.FIELD.crc32."""
    tensors = _index_of(shards)
    files.write_atomically(folder / INDEX, lambda temporary: save_file(tensors, temporary))


def check_index(folder: Path, names: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Return each split's labels, int64, after reading all shards and finding in them what the index says.

    Raises DataError naming the shard as `load_shard` does, or the index that differs.
    """
    index, shards = read_index(folder), dict[str, list[Shard]]()
    for split, listed in names.items():
        shards[split] = []
        for name in listed:
            shards[split].append(load_shard(folder / name, sum(map(len, shards[split])))[0])
    found = _index_of(shards)
    if not any(key.endswith(_CHECKSUM) for key in index):  # Written before there were checksums.
        found = {key: values for key, values in found.items() if not key.endswith(_CHECKSUM)}
    if index.keys() != found.keys() or any(not np.array_equal(index[key], found[key]) for key in found):
        raise DataError(f"{folder / INDEX} is not the index of the shards beside it", AGAIN)
    return {split: found[f"{split}.label"] for split in names}


def read_index(folder: Path) -> dict[str, np.ndarray]:
    """Read an index as `write_index` wrote it. Raises DataError where there is none to be read."""
    with saying_damaged(f"{folder / INDEX} cannot be read", AGAIN):
        index: dict[str, np.ndarray] = load_file(folder / INDEX)
    for name, array in index.items():
        if array.dtype != (np.uint32 if name.endswith(_CHECKSUM) else np.int64) or array.ndim != 1:
            raise DataError(f"{folder / INDEX} is damaged: {name} is {array.dtype} of shape {array.shape}", AGAIN)
    return index


def checksums_of(index: Mapping[str, np.ndarray], split: str, field: str) -> np.ndarray | None:
    """Return the CRC-32 of every sample's array, uint32 (N,); None in an index written before there were any."""
    return index.get(f"{split}.{field}.{_CHECKSUM}")


class _Rows:
    """What a shard holds, sample by sample."""

    def __init__(self) -> None:
        self.labels: list[int] = []
        self._offsets: dict[str, list[int]] = {"npy": []}
        self._checksums: dict[str, list[int]] = {"npy": []}

    def add(self, field: str, offset: int, content: bytes) -> None:
        self._offsets.setdefault(field, []).append(offset)
        self._checksums.setdefault(field, []).append(zlib.crc32(content))

    def require_whole(self, count: int) -> None:
        if any(len(row) != count for row in (self.labels, *self._offsets.values())):
            raise ValueError("the sample is not whole, or not the next one of its split")

    def shard(self, name: str, sha256: str) -> Shard:
        offsets = {field: np.asarray(row, dtype=np.int64) for field, row in self._offsets.items()}
        checksums = {field: np.asarray(row, dtype=np.uint32) for field, row in self._checksums.items()}
        return Shard(name, np.asarray(self.labels, dtype=np.int64), offsets, checksums, sha256)


def _index_of(shards: Mapping[str, Sequence[Shard]]) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for split, parts in shards.items():
        fields = list(parts[0].offsets) if parts else ["npy"]
        for part in parts:
            if list(part.offsets) != fields:
                raise DataError(f"{part.name} holds other arrays than {parts[0].name}", AGAIN)
        none = np.empty(0, dtype=np.int64)
        numbers = [np.full(len(part), number, dtype=np.int64) for number, part in enumerate(parts)]
        tensors[f"{split}.shard"] = np.concatenate([none, *numbers])
        tensors[f"{split}.label"] = np.concatenate([none, *(part.labels for part in parts)])
        for field in fields:
            tensors[f"{split}.{field}"] = np.concatenate([none, *(part.offsets[field] for part in parts)])
            sums = [part.checksums[field] for part in parts]
            tensors[f"{split}.{field}.{_CHECKSUM}"] = np.concatenate([np.empty(0, dtype=np.uint32), *sums])
    return tensors


def _members(path: Path, data: bytes) -> Iterator[tuple[str, str, int, bytes]]:
    with as_data_error(f"{path} is damaged", AGAIN), tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            key, _, field = member.name.partition(".")
            if not member.isreg() or member.issparse():
                raise DataError(f"{path} holds {member.name!r}, which is no file", AGAIN)
            content = data[member.offset_data : member.offset_data + member.size]
            if len(content) != member.size:
                raise DataError(f"{path} is damaged: {member.name!r} is cut short", AGAIN)
            yield key, field, member.offset_data, content
        # tarfile takes a header that it cannot read for the end; the end is two blocks of zeros.
        rest = data[tar.offset :]
        if len(rest) < 2 * BLOCK or any(rest):
            raise DataError(f"{path} is damaged at byte {tar.offset}", AGAIN)


@lru_cache
def _npy_header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    described = {"descr": "<f2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def _array(content: bytes) -> np.ndarray:
    buffer = io.BytesIO(content)
    header = read_header(buffer)
    if header.dtype != np.dtype("<f2") or header.fortran_order or len(header.shape) != 3:
        raise ValueError(f"{header.dtype} of shape {header.shape}, not float16 of three axes")
    if len(content) - buffer.tell() != header.num_bytes:
        raise ValueError(f"{len(content):,} bytes, too many or too few for shape {header.shape}")
    return np.frombuffer(content, np.float16, offset=buffer.tell()).reshape(header.shape)
