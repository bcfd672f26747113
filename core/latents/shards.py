"""Latent shards: plain WebDataset tars that anyone can open.

A sample is `KEY.npy` (its latent, float16), `KEY.flip.npy` (that of the mirrored image, where both were encoded), any
other arrays (`KEY.NAME.npy`) and texts (`KEY.NAME`) that it has, `KEY.cls` (its label, where it has one) and `KEY.json`
(where it came from). A variational autoencoder adds `KEY.std.npy` and `KEY.flip.std.npy`, the posterior's standard
deviation. Keys are zero-padded sample numbers. Every header has mtime 0, so that equal samples give equal bytes.
"""

import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tarfile import BLOCKSIZE

import numpy as np

from .. import files
from ..errors import DataError, as_data_error
from ..images.archive import walk_tar
from ..images.npy import parse
from .fields import ARRAYS, LABEL, LATENT, Field, form_of
from .tar_members import ending, member

_ARRAY_NAME, _TEXT_NAME = re.compile(r"([a-z0-9_]+\.)*npy"), re.compile(r"([a-z0-9_]+\.)*(txt|json)")
_NOT_WHOLE = "the sample is not whole, or not the next one of its split"
_DTYPES = ("float16", "float32", "uint8", "uint16", "int32", "int64")


@dataclass(frozen=True)
class LatentSample:
    """One sample of a shard. arrays: field → array, `npy` the latent, float16 (C, h, w). texts: field → text, UTF-8.

    name: of the image in its source. label: None where the data has none.
    """

    arrays: dict[str, np.ndarray]
    label: int | None
    name: str
    texts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert LATENT in self.arrays and all(map(_ARRAY_NAME.fullmatch, self.arrays)), f"arrays {list(self.arrays)}"
        assert all(map(_TEXT_NAME.fullmatch, self.texts)) and "json" not in self.texts, f"texts {list(self.texts)}"
        latents = [self.arrays[name] for name in ARRAYS if name in self.arrays]
        assert all(each.dtype == np.float16 and each.shape == latents[0].shape for each in latents), "not float16"
        assert latents[0].ndim == 3, f"a latent of shape {latents[0].shape}"


@dataclass(frozen=True)
class Shard:
    """What a shard holds, for the index and the manifest; of `count` samples.

    labels: int64 (count,), or None. forms: field → its form. offsets: field → where the numbers or letters of each
    sample begin, int64 (count,). sizes: in bytes, int64 (count,). checksums: their CRC-32, uint32 (count,). sha256: of
    the file, hex.
    """

    name: str
    count: int
    labels: np.ndarray | None
    forms: dict[str, Field]
    offsets: dict[str, np.ndarray]
    sizes: dict[str, np.ndarray]
    checksums: dict[str, np.ndarray]
    sha256: str

    def __len__(self) -> int:
        return self.count


def shard_name(split: str, number: int) -> str:
    """Name a shard: `shard-000000.tar` for training, `val-000000.tar` for validation."""
    return f"{'shard' if split == 'train' else split}-{number:06d}.tar"


def write_shard(path: Path, first_key: int, samples: Iterable[LatentSample]) -> Shard:
    """Write samples, keyed from `first_key` on, as one tar: whole or not at all. Returns what it holds."""
    rows, digest = _Rows(), hashlib.sha256()

    def write(temporary: Path) -> None:
        position = 0
        with temporary.open("wb", buffering=1 << 18) as file:

            def put(data: bytes) -> None:
                nonlocal position
                digest.update(data)
                position += file.write(data)

            for key, sample in enumerate(samples, first_key):
                source: dict[str, str | int] = {"name": sample.name}
                for name, array in sample.arrays.items():
                    header, content = _npy_header(array.dtype.str, array.shape), np.ascontiguousarray(array).tobytes()
                    rows.add(name, position + BLOCKSIZE + len(header), content, form_of(array))
                    put(member(key, name, header + content))
                for name, text in sample.texts.items():
                    rows.add(name, position + BLOCKSIZE, text.encode(), form_of(text))
                    put(member(key, name, text.encode()))
                if sample.label is not None:
                    rows.labels.append(sample.label)
                    source["label"] = sample.label
                    put(member(key, LABEL, str(sample.label).encode()))
                put(member(key, "json", json.dumps(source, ensure_ascii=True).encode()))
                rows.count += 1
            put(ending(position))

    files.write_atomically(path, write)
    return rows.shard(path.name, digest.hexdigest())


def load_shard(path: Path, first_key: int) -> tuple[Shard, list[LatentSample]]:
    """Read a shard once: what it holds, and its samples.

    Raises DataError for a damaged tar, or samples that are not whole and keyed from `first_key` on.
    """
    data = files.read_plain(path)
    rows, samples = _Rows(), list[LatentSample]()
    arrays: dict[str, np.ndarray] = {}
    texts: dict[str, str] = {}
    for key, name, offset, content in _members(path, data):
        with as_data_error(f"{path} is damaged at {key}.{name}"):
            if key != f"{first_key + len(samples):09d}":
                raise ValueError(_NOT_WHOLE)
            if _ARRAY_NAME.fullmatch(name):
                arrays[name], start = _array(content)
                rows.add(name, offset + start, content[start:], form_of(arrays[name]))
            elif name == LABEL:
                rows.labels.append(int(content))
            elif name == "json":
                rows.count += 1
                rows.require_whole()
                label = rows.labels[-1] if rows.labels else None
                samples.append(LatentSample(arrays, label, str(json.loads(content)["name"]), texts))
                arrays, texts = {}, {}
            else:
                texts[name] = content.decode()
                rows.add(name, offset, content, form_of(texts[name]))
    if arrays or texts or len(rows.labels) not in (0, len(samples)):
        raise DataError(f"{path} is damaged: its last sample is not whole")
    return rows.shard(path.name, hashlib.sha256(data).hexdigest()), samples


def read_shard(path: Path) -> Iterator[tuple[str, str, int, bytes]]:
    """Yield (key, field, offset of the content, content) of every member. DataError for a damaged tar.

    A member's bytes are not checked: only the manifest's sha256 covers them.
    """
    return _members(path, files.read_plain(path))


class _Rows:
    """What a shard holds, sample by sample."""

    def __init__(self) -> None:
        self.labels: list[int] = []
        self.count = 0
        self._forms: dict[str, Field] = {}
        self._rows: dict[str, list[tuple[int, int, int]]] = {LATENT: []}  # offset, size, checksum

    def add(self, name: str, offset: int, content: bytes, form: Field) -> None:
        """Add one field of the current sample. Raises ValueError where its form differs from the others'."""
        known = self._forms.get(name, form)
        self._forms[name] = known if known == form else known.merged(form)
        self._rows.setdefault(name, []).append((offset, len(content), zlib.crc32(content)))

    def require_whole(self) -> None:
        """Raise ValueError where the last sample lacks what the others have, or has more."""
        if any(len(row) != self.count for row in self._rows.values()) or len(self.labels) not in (0, self.count):
            raise ValueError(_NOT_WHOLE)

    def shard(self, name: str, sha256: str) -> Shard:
        columns = {each: np.array(row, dtype=np.int64).reshape(-1, 3).T for each, row in self._rows.items()}
        return Shard(
            name,
            self.count,
            np.array(self.labels, dtype=np.int64) if self.labels or not self.count else None,
            self._forms,
            offsets={each: column[0] for each, column in columns.items()},
            sizes={each: column[1] for each, column in columns.items()},
            checksums={each: column[2].astype(np.uint32) for each, column in columns.items()},
            sha256=sha256,
        )


def _members(path: Path, data: bytes) -> Iterator[tuple[str, str, int, bytes]]:
    with as_data_error(f"{path} is damaged"):
        for info in walk_tar(io.BytesIO(data), len(data)):
            if not info.isreg():
                raise ValueError(f"{info.name} is a folder")
            key, _, field = info.name.partition(".")
            yield key, field, info.offset_data, data[info.offset_data : info.offset_data + info.size]


@lru_cache
def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _array(content: bytes) -> tuple[np.ndarray, int]:
    """Return the array of a member, and where its numbers begin."""
    array, start = parse(content)
    if array.dtype.name not in _DTYPES or array.dtype.byteorder == ">" or not array.flags.c_contiguous:
        raise ValueError(f"{array.dtype} of shape {array.shape} cannot be a field of a shard")
    return array, start
