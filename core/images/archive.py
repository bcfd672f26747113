"""Images in a zip or a tar: read in place, nothing is ever unpacked, no name and no link is followed."""

import io
import os
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, as_data_error
from .folder import MAX_FILE_BYTES
from .listing import Listing, is_hidden, is_image, safe_name

DEFLATE_LIMIT = 1040  # deflate cannot expand by more than 1032; other methods, and liars, claim more
_ENCRYPTED = 0x1
_BLOCK = 512
_LONGEST_HEADER = 1 << 20


@dataclass(frozen=True)
class Member:
    """Where a file's bytes lie in a tar."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise DataError(f"{self.path} was cut off while it was read", "copy it again")
        return data


class TarIndex(io.FileIO):
    """A tar, opened for tarfile to read nothing but its headers, of which none is long.

    A header may claim to be continued in a block of any size (long names, pax), for which tarfile would make room.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        return super().read(size)


def list_zip(path: Path, location: str) -> Listing:
    """List the files of a zip; DataError naming what is damaged, encrypted, doubled or leads out of it."""
    with as_data_error(f"{location} is not a zip that can be read", "make or copy it again"):
        archive = zipfile.ZipFile(path)
    members: dict[str, zipfile.ZipInfo] = {}
    folders: list[str] = []
    whole = path.stat().st_size
    for info in archive.infolist():
        name = safe_name(location, info.filename)
        if info.filename.endswith("/"):
            folders.append(name)
            continue
        if name in members:
            raise DataError(f"{location} holds two files named {name}", "remove one of them")
        if info.flag_bits & _ENCRYPTED and is_image(name):
            raise DataError(f"{location}: {name} is encrypted", "make the zip again without a password")
        members[name] = info
        folders.extend(_folders_above(name))

    def read(name: str) -> bytes:
        size, packed = members[name].file_size, members[name].compress_size
        if size > MAX_FILE_BYTES:
            raise DataError(f"{location}: {name} has {size:,} bytes", "shrink or remove it")
        if packed > whole:  # zipfile would make room for all that is announced.
            raise DataError(f"{location}: {name} would go on beyond the end", "make or copy the zip again")
        if size > DEFLATE_LIMIT * packed + 1024:
            message = f"{location}: {name} has {size:,} bytes in {packed:,}, like a decompression bomb"
            raise DataError(message, "remove it, or pack it without compression")
        with as_data_error(f"{location}: {name} cannot be unpacked", "make or copy the zip again"):
            return archive.read(members[name])

    return Listing(location, list(members), sorted(set(folders)), read, archive=True)


def tar_members(path: Path, location: str) -> tuple[dict[str, Member], list[str]]:
    """Index an uncompressed tar: its files by name, and its folders.

    Raises DataError naming the archive when it is cut off or damaged anywhere (tarfile stops at a damaged header as
    if the archive ended there), when a name leads out of it, and when it holds links, devices or sparse files.
    """
    members: dict[str, Member] = {}
    folders: list[str] = []
    remedy = "make or copy it again; only uncompressed .tar files are read"
    with as_data_error(f"{location} is not a tar that can be read", remedy):
        size = path.stat().st_size
        with TarIndex(path) as file, tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as archive:
            for info in archive:
                name = safe_name(location, info.name)
                if info.isdir():
                    folders.append(name)
                    continue
                if not info.isreg() or info.issparse():
                    raise DataError(f"{location}: {name} is a link or a special file", "put the file itself there")
                if info.offset_data + info.size > size or info.size < 0:
                    raise DataError(f"{location} is cut off inside {name}", remedy)
                if is_image(name) and info.size > MAX_FILE_BYTES:
                    raise DataError(f"{location}: {name} has {info.size:,} bytes", "shrink or remove it")
                if name in members and not is_hidden(name):
                    raise DataError(f"{location} holds two files named {name}", "remove one of them")
                members[name] = Member(path, info.offset_data, info.size)
                folders.extend(_folders_above(name))
                archive.members = []  # type: ignore[attr-defined]  # or it would keep every header
            end = archive.offset
        _require_zeros(path, end, size, location, remedy)
    return members, sorted(set(folders))


def _require_zeros(path: Path, end: int, size: int, location: str, remedy: str) -> None:
    """Check that an archive ends where its index ended: with blocks of zeros and nothing after them."""
    if size < end + _BLOCK:
        raise DataError(f"{location} is cut off after {size:,} bytes", remedy)
    with path.open("rb") as file:
        file.seek(end)
        while chunk := file.read(1 << 20):
            if chunk.count(0) != len(chunk):
                raise DataError(f"{location} is damaged near byte {end:,}, or is two archives in one", remedy)


def _folders_above(name: str) -> list[str]:
    folder = os.path.dirname(name)  # noqa: PTH120 (a name in an archive, not a path of this system)
    return [folder] if folder else []
