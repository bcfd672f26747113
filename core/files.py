"""Writing files so that they are whole or absent, and their sha256."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

from . import locks
from .errors import DataError, NewerFormat, UserError

TEMPORARY = ".tmp"  # safetensors, too, begins its temporary files so
_MOVED_ASIDE = re.compile(rf"\{TEMPORARY}-(.{{1,49}})-[0-9a-f]{{8}}-old", re.DOTALL)  # A longer name is cut off there.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CHUNK = 1 << 20
_LONGEST_NAME = 255  # bytes, on every system in use


def open_plain(path: Path) -> BinaryIO:
    """Open a file for reading. Raises DataError for anything else: reading a pipe would wait, and a device has no end.

    Raises OSError as `open` does.
    """
    handle = os.open(path, os.O_RDONLY | locks.PLAIN)
    try:
        require_plain(handle, path)
    except DataError:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def require_plain(handle: int, path: Path) -> None:
    """Raise DataError where what was opened is a folder, a pipe or a device."""
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise DataError(f"{path} is not a file", "remove it")


def read_plain(path: Path) -> bytes:
    """Return the content of a file, and raise as `open_plain` does."""
    with open_plain(path) as file:
        return file.read()


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's content, hex. Raises as `open_plain` does."""
    digest = hashlib.sha256()
    with open_plain(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON, hex. Raises ValueError for NaN and infinity."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_files(paths: Iterable[Path]) -> str:
    """Return one sha256 of several files and their names, hex; in that order."""
    return sha256_json([[path.name, sha256_file(path)] for path in paths])


def sync_directory(path: Path) -> None:
    """Make renames inside a directory survive a power cut, where the system allows it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows cannot open directories.
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, fsync it and rename it into place.

    Raises UserError when the disk is full; the file that was there before does not change.
    """
    temporary = path.with_name(f"{TEMPORARY}-{path.name[:50]}-{secrets.token_hex(4)}")
    try:
        with saying_disk_full(path):
            temporary.touch()
            mode = temporary.stat().st_mode
            write(temporary)
            temporary.chmod(mode)  # safetensors writes files that only their owner can read.
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_atomically(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented, whole or not at all. NaN is refused."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Return what `write_json` writes.

    Text is UTF-8; the stray bytes of a name that is not (surrogates, in Python) become JSON escapes.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def as_read(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object as it will be read: tuples are lists, and keys text."""
    read: dict[str, Any] = json.loads(json.dumps(value))
    return read


def read_json(path: Path, remedy: str | None = None) -> dict[str, Any]:
    """Read a JSON object; DataError naming the file if it is missing, damaged or something else."""
    try:
        value = json.loads(read_plain(path).decode())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", remedy) from None
    except DataError as error:
        raise DataError(error.message, remedy) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", remedy) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}", remedy) from None
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, not a JSON object", remedy)
    return value


def sealed(value: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a JSON object with its own sha256 under a key."""
    return {**value, key: sha256_json(value)}


def read_sealed(path: Path, key: str, schema: int, remedy: str | None = None, always: bool = False) -> dict[str, Any]:
    """Read what `sealed` returned, without that key.

    always: whether all files of this schema have it; some kinds were written before they did. Raises DataError for a
    file that is damaged, and NewerFormat for a whole one of another schema.
    """
    value = read_json(path, remedy)
    digest, found = value.pop(key, None), value.get("schema", schema)
    try:
        own = sha256_json(value)
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}", remedy) from None
    is_sealed = always or digest is not None or found != schema or _has_its_own_digest(value)
    if is_sealed and digest != own:
        raise DataError(f"{path} is damaged: it differs from its own sha256", remedy)
    if found != schema:
        raise NewerFormat(f"{path} has schema {found!r}; this ldm reads {schema}", "upgrade ldm")
    return value


def _has_its_own_digest(value: dict[str, Any]) -> bool:
    """Return whether some key holds the sha256 of all others: that of a sealed object, its name damaged."""
    texts = [name for name, text in value.items() if isinstance(text, str) and len(text) == 64]
    return any(value[name] == sha256_json({k: v for k, v in value.items() if k != name}) for name in texts)


def is_inside(name: str) -> bool:
    """Return whether a relative path, as of a file in a table, is valid and stays inside its folder."""
    return all(part not in ("", ".", "..") and _can_be_named(part) for part in name.split("/"))


def _can_be_named(part: str) -> bool:
    try:
        return "\0" not in part and len(os.fsencode(part)) <= _LONGEST_NAME
    except UnicodeEncodeError:
        return False


@contextmanager
def new_directory(final: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary directory that becomes `final` when the block succeeds, and is removed when it fails.

    replace: replace an existing one, which is removed once the new one is whole. The folder that it lies in has to
    exist; what killed processes left of the same directory is removed from there.
    """
    with saying_disk_full(final), suppress(FileNotFoundError):
        _remove_abandoned(final)
    temporary = final.with_name(f"{TEMPORARY}-{final.name[:50]}-{secrets.token_hex(4)}")
    aside = temporary.with_name(f"{temporary.name}-old")
    try:
        with saying_disk_full(final):
            temporary.mkdir()
            with _locked(temporary):
                yield temporary
                for path in sorted(temporary.rglob("*")):
                    if path.is_file():
                        path.chmod(temporary.stat().st_mode & 0o666)
                        with path.open("rb+") as file:
                            os.fsync(file.fileno())
                    else:
                        sync_directory(path)
                sync_directory(temporary)
                if replace and final.exists():
                    final.rename(aside)
                temporary.rename(final)
            shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_directory(final.parent)


@contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    """Lock a directory for a block, by which others know that its process lives; yield whether nobody else did."""
    try:
        handle = os.open(directory, os.O_RDONLY)
    except PermissionError:  # Windows cannot open directories: what is left there is never taken for abandoned.
        yield False
        return
    try:
        yield locks.lock(handle)
    finally:
        os.close(handle)


def _remove_abandoned(final: Path) -> None:
    """Remove what killed processes left of a directory that was to become `final`, or restore what they moved aside."""
    begun = re.compile(rf"\{TEMPORARY}-{re.escape(final.name[:50])}-[0-9a-f]{{8}}", re.DOTALL)
    for path in sorted(final.parent.iterdir()):
        if begun.fullmatch(path.name.removesuffix("-old")) and path.is_dir() and not path.is_symlink():
            with _locked(path) as abandoned:
                if abandoned:
                    _remove_or_restore(path)


def remove_temporaries(directory: Path) -> None:
    """Remove what interrupted writes left in a directory and below it; restore what was about to be replaced."""
    for path in sorted(directory.rglob(f"{TEMPORARY}*")):
        _remove_or_restore(path)


def _remove_or_restore(path: Path) -> None:
    aside = _MOVED_ASIDE.fullmatch(path.name)
    if aside is not None and path.is_dir() and not path.with_name(aside[1]).exists():
        path.rename(path.with_name(aside[1]))
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)  # It may have been removed with its folder.


@contextmanager
def saying_disk_full(path: Path) -> Iterator[None]:
    """Turn the system's error for a full disk, a quota or a file size limit into a UserError naming the path."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else _os_error(error)
        if number not in _FULL:
            raise
        reason = os.strerror(number).lower()
        raise UserError(f"disk: cannot write {path}: {reason}", "free some room, then run the same command") from error


def _os_error(error: SafetensorError) -> int | None:
    """Return the system's error number, which safetensors gives in its message only."""
    match = re.search(r"\(os error (\d+)\)", str(error))
    return int(match[1]) if match else None
