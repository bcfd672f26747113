"""Images in a zip or a tar: read in place, nothing is ever unpacked, no name and no link is followed."""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import DataError, as_data_error
from .budget import MEMORY, Unpacked
from .folder import MAX_FILE_BYTES
from .listing import Listing, is_hidden, is_image, safe_name

DEFLATE_LIMIT = 1040  # deflate cannot expand by more than 1032; other methods, and liars, claim more
_ENCRYPTED = 0x1
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

    def read(name: str) -> bytes:
        if members[name].file_size > MAX_FILE_BYTES:
            raise DataError(f"{location}: {name} has {members[name].file_size:,} bytes", "shrink or remove it")
        return unpack(archive, members[name], f"{location}: {name}")

    return Listing(location, list(members), folders, read)


def unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> bytes:
    """Return the bytes of a member. Raises DataError naming it as `name` where it is damaged, or claims too much."""
    require_possible(archive, info, name)
    MEMORY.take(info.file_size, info.compress_size, name)
    with as_data_error(f"{name} cannot be unpacked", "make or copy the zip again"):
        content = archive.read(info)
    return content if info.file_size <= info.compress_size else Unpacked(content, info.compress_size)


def require_possible(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> None:
    """Raise DataError where a member claims what cannot be: zipfile itself would make room for all of it."""
    size, packed = info.file_size, info.compress_size
    if packed > Path(str(archive.filename)).stat().st_size:
        raise DataError(f"{name} would go on beyond the end of the zip", "make or copy it again")
    if size > DEFLATE_LIMIT * packed + 1024:
        message = f"{name} has {size:,} bytes in {packed:,}, like a decompression bomb"
        raise DataError(message, "remove it, or pack it without compression")


def tar_members(path: Path, location: str) -> tuple[dict[str, Member], list[str]]:
    """Index an uncompressed tar: its files by name, and its folders.

    Raises DataError naming the archive for what `walk_tar` refuses, and when a name leads out of it.
    """
    members: dict[str, Member] = {}
    folders: list[str] = []
    remedy = "make or copy it again; only uncompressed .tar files are read"
    with as_data_error(f"{location} is not a tar that can be read", remedy), TarIndex(path) as file:
        for info in walk_tar(file, path.stat().st_size):
            name = safe_name(location, info.name)
            if info.isdir():
                folders.append(name)
                continue
            if is_image(name) and info.size > MAX_FILE_BYTES:
                raise DataError(f"{location}: {name} has {info.size:,} bytes", "shrink or remove it")
            if name in members and not is_hidden(name):
                raise DataError(f"{location} holds two files named {name}", "remove one of them")
            members[name] = Member(path, info.offset_data, info.size)
    return members, folders


def walk_tar(file: BinaryIO, size: int) -> Iterator[tarfile.TarInfo]:
    """Yield the files and folders of an uncompressed tar of `size` bytes.

    Raises tarfile.ReadError when it is cut off or damaged anywhere (tarfile stops at a damaged header as if the archive
    ended there), and when it holds links, devices or sparse files.
    """
    with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as archive:
        for info in archive:
            if not (info.isdir() or info.isreg()) or info.issparse():
                raise tarfile.ReadError(f"{info.name} is a link or a special file: put the file itself there")
            if info.isreg() and not 0 <= info.size <= size - info.offset_data:
                raise tarfile.ReadError(f"it is cut off inside {info.name}")
            yield info
            archive.members = []  # type: ignore[attr-defined]  # or it would keep every header
        end = archive.offset
    if size < end + tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"it is cut off after {size:,} bytes")
    file.seek(end)
    while chunk := file.read(1 << 20):
        if chunk.strip(b"\0"):
            raise tarfile.ReadError(f"it is damaged near byte {end:,}, or is two archives in one")
