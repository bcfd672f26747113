"""Folders of images on disk: walked once, following links, never for ever."""

import os
import stat
from pathlib import Path

from ..errors import DataError
from ..files import open_plain
from ..runs.lock import LOCK
from .listing import Listing, is_hidden, is_image

MAX_FILE_BYTES = 256 << 20


def list_folder(root: Path, location: str) -> Listing:
    """List all files below a folder.

    Links to files and folders are followed, also out of the root. Raises DataError naming a link that leads nowhere,
    a folder reached twice (a loop, or two links to one place), an image that is not a plain file, or what may not be
    read.
    """
    names: list[str] = []
    folders: list[str] = []
    try:
        seen = {_identity(folder): str(folder) for folder in (root.resolve(), *root.resolve().parents)}
        waiting = [""]
        while waiting:
            prefix = waiting.pop()
            with os.scandir(root / prefix) as entries:
                for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name)):
                    name = prefix + entry.name
                    if is_hidden(entry.name) and entry.name != LOCK:
                        continue
                    if entry.is_file(follow_symlinks=False) or stat.S_ISREG(mode := _mode(root / name, location)):
                        names.append(name)
                    elif stat.S_ISDIR(mode):
                        _refuse_second_visit(root / name, name, seen, location)
                        folders.append(name)
                        waiting.append(name + "/")
                    elif is_image(name):
                        raise DataError(f"{location}: {name} is not a plain file", "remove it")
    except OSError as error:
        raise DataError(f"{location} cannot be read: {error}", "check that it exists and may be read") from None
    return Listing(location, names, folders, lambda name: read_file(root / name))


def read_file(path: Path) -> bytes:
    """Read an image's file; DataError naming it when it cannot be read or is larger than any image should be."""
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise DataError(f"{path} has {size:,} bytes, more than {MAX_FILE_BYTES:,}", "shrink or remove it")
            return file.read()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "check that it exists and may be read") from None


def _mode(path: Path, location: str) -> int:
    try:
        return path.stat().st_mode
    except (OSError, RuntimeError) as error:
        reason = "a link that leads nowhere" if path.is_symlink() else str(error)
        raise DataError(f"{location}: {path} is {reason}", "mend or remove it") from None


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _refuse_second_visit(path: Path, name: str, seen: dict[tuple[int, int], str], location: str) -> None:
    first = seen.setdefault(_identity(path), name)
    if first != name:
        raise DataError(f"{location}: {name} leads to the same folder as {first}", "remove one of the two")
