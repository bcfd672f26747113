"""Decoded training squares on the disk, for later starts and other stages.

A square is found by the sha256 of its image's file and by how it was prepared. Files hold many squares each and are
whole or absent; a checksum of every square is compared when it is read. The folder is `LDM_CACHE_DIR`, by default
`~/.cache/ldm/images`; it may be removed at any time.
"""

import hashlib
import os
import secrets
import time
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from math import prod
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import features

from .. import files
from ..errors import UserError
from .decode import HEIF, readable_formats, sides

_SUFFIX = ".squares"
_MAGIC = b"ldm squares 1".ljust(16, b"\0")
_CONTENT, _CHECK = 32, 16  # bytes of a sha256, and of a checksum
_FILE_BYTES = 32 << 20  # squares written together
_ABANDONED = 86_400.0  # seconds after which an unfinished file is nobody's
_LIBRARIES = ("pil", "jpg", "zlib", "webp", "libtiff", "avif")  # whose versions may change pixels


def cache_folder() -> Path:
    """Return where squares are kept."""
    given = os.environ.get("LDM_CACHE_DIR")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ldm" / "images"


@dataclass(frozen=True, eq=False)
class _Pack:
    """An opened file: the sha256 (N, 32), checksums (N, 16) and squares (N, H, W, C) of some images."""

    path: Path
    contents: np.ndarray
    checks: np.ndarray
    squares: np.ndarray


class Squares:
    """The squares of one preparation that are on the disk. Threads may use it together.

    prepared: JSON that says how images become squares. most_bytes: what all files may take; those used longest ago make
    room, but none that this process reads. Attributes: `damaged`, how many files were removed for what they hold;
    `failure`, why nothing more is written, where that is not for lack of room.
    """

    def __init__(
        self, folder: Path, prepared: object, size: int | tuple[int, int], most_bytes: int, channels: int = 3
    ) -> None:
        libraries = [features.version(name) for name in _LIBRARIES]
        if HEIF in readable_formats():
            libraries.append(version("pillow-heif"))
        self.folder, self.shape, self.most_bytes = folder, (*sides(size), channels), most_bytes
        # Squares in colour are found under the key that they had when there were no others.
        self.key = files.sha256_json([prepared, size, libraries, *([channels] if channels != 3 else [])])[:32]
        self.damaged = 0
        self.failure: str | None = None
        self._full = not most_bytes
        self._lock = Lock()
        self._packs: dict[Path, _Pack] = {}
        self._known: dict[bytes, tuple[_Pack, int]] = {}
        self._waiting: list[tuple[bytes, np.ndarray]] = []
        for path in sorted(folder.glob(f"{self.key}-*{_SUFFIX}")):
            self._add(path)

    def __len__(self) -> int:
        """Count the squares on the disk."""
        return len(self._known)

    def get(self, content: bytes) -> np.ndarray | None:
        """Return the square, uint8 (H, W, C), of the image whose file has this sha256; None where it is not here.

        A file with a damaged square is removed.
        """
        pack, row = self._known.get(content, (None, 0))
        if pack is None:
            return None
        square = np.array(pack.squares[row])
        if self._check(content, square) == pack.checks[row].tobytes():
            return square
        self._remove(pack)
        return None

    def put(self, content: bytes, square: np.ndarray) -> None:
        """Keep a square, where there is room. It is written with others, at the latest by `flush`."""
        with self._lock:
            if self._full or content in self._known:
                return
            self._waiting.append((content, np.array(square)))
            if len(self._waiting) * square.nbytes < _FILE_BYTES:
                return
        self.flush()

    def flush(self) -> None:
        """Write what is waiting. What the system refuses is recorded in `failure`: a cache stops no work."""
        with self._lock:
            waiting, self._waiting = dict(self._waiting), []
            if not waiting or self._full:
                return
            try:
                self._write(waiting)
            except (OSError, UserError) as error:
                self._full, self.failure = True, str(error)

    def _write(self, waiting: dict[bytes, np.ndarray]) -> None:
        squares = np.stack([*waiting.values()])
        checks = b"".join(self._check(content, square) for content, square in waiting.items())
        head = _MAGIC + len(waiting).to_bytes(8, "little") + self.shape[0].to_bytes(8, "little")
        data = head + b"".join(waiting) + checks + squares.tobytes()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._make_room(len(data)):
            self._full = True
            return
        path = self.folder / f"{self.key}-{secrets.token_hex(8)}{_SUFFIX}"
        files.write_bytes(path, data)
        self._add(path)

    def _make_room(self, needed: int) -> bool:
        for left in self.folder.glob(f"{files.TEMPORARY}*"):
            if left.stat().st_mtime < time.time() - _ABANDONED:
                left.unlink(missing_ok=True)
        found = [(path.stat(), path) for path in self.folder.glob(f"*{_SUFFIX}")]
        total = sum(status.st_size for status, _ in found)
        for status, path in sorted(found, key=lambda item: item[0].st_mtime):
            if total + needed > self.most_bytes and path not in self._packs:
                path.unlink(missing_ok=True)
                total -= status.st_size
        return total + needed <= self.most_bytes

    def _add(self, path: Path) -> None:
        """Open a file, and note that it was used; one of another form is removed."""
        try:
            data = np.memmap(path, dtype=np.uint8, mode="r")
            os.utime(path)
        except (OSError, ValueError):  # removed meanwhile; empty
            return
        count = int.from_bytes(data[16:24].tobytes(), "little")
        starts = np.cumsum([32, count * _CONTENT, count * _CHECK, count * prod(self.shape)], dtype=object)
        whole = data[:16].tobytes() == _MAGIC and starts[-1] == len(data)
        if not whole:
            self.damaged += 1
            path.unlink(missing_ok=True)
            return
        contents, checks, squares = (data[start:stop] for start, stop in pairwise(starts))
        whole_squares = squares.reshape(count, *self.shape)
        pack = _Pack(path, contents.reshape(count, -1), checks.reshape(count, -1), whole_squares)
        self._packs[path] = pack
        self._known |= {digest.tobytes(): (pack, row) for row, digest in enumerate(pack.contents)}

    def _remove(self, pack: _Pack) -> None:
        with self._lock:
            if self._packs.pop(pack.path, None) is not None:
                self.damaged += 1
                self._known = {content: place for content, place in self._known.items() if place[0] is not pack}
                pack.path.unlink(missing_ok=True)

    def _check(self, content: bytes, square: np.ndarray) -> bytes:
        """Return the checksum of a square as that of this image, prepared in this way."""
        key, person = content, bytes.fromhex(self.key)
        return hashlib.blake2b(square.tobytes(), digest_size=_CHECK, key=key, person=person).digest()
