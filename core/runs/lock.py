"""One owner for a directory at a time: a lock that the system frees with the process, however that ends."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from .. import files, locks
from ..errors import ConfigError, DataError, UserError

LOCK = ".lock"
_held: dict[Path, os.stat_result] = {}  # the lock's file of each folder that this process occupies
_INTRODUCTION = 0.2  # seconds that the owner of a lock may take to write down who it is


@contextmanager
def occupy(path: Path) -> Iterator[None]:
    """Make a stage's directory and hold its lock for the block; the system frees it with the process.

    Raises ConfigError (exit 2), before any data is read, for a path that cannot be written and for a second owner;
    UserError where the work fails in a folder that is no longer there.
    """
    _prepare(path)
    with _opened(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_APPEND) as lock:
        if not locks.lock(lock.fileno()):
            time.sleep(_INTRODUCTION)
            if not locks.lock(lock.fileno()):  # The other process may only have looked whether the lock is free.
                remedy = "wait for it, stop it, or give another `name`"
                raise ConfigError(f"{path} is in use by {_introduction(lock)}", remedy)
        with files.saying_disk_full(path / LOCK):
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            lock.flush()
        _held[path] = os.fstat(lock.fileno())
        try:
            yield
        except Exception:
            require_held(path)  # Whatever failed: this is why.
            raise
        finally:
            del _held[path]


def require_held(path: Path) -> None:
    """Raise UserError where a folder that this process occupies was moved or deleted, or replaced by another."""
    if (held := _held.get(path)) is None:
        return
    try:
        is_ours = os.path.samestat(held, (path / LOCK).stat())
    except OSError:
        is_ours = False
    if not is_ours:
        message = f"{path} is gone: it was moved or deleted while this command wrote it"
        raise UserError(message, "bring it back, then run the same command again")


def owner(path: Path) -> str | None:
    """Return which process is writing a stage's directory; None where there is none."""
    try:
        with _opened(path / LOCK, os.O_RDONLY) as lock:
            return None if locks.lock(lock.fileno(), shared=True) else _introduction(lock)
    except FileNotFoundError:
        return None


def _opened(path: Path, flags: int) -> TextIO:
    """Open a lock's file. Raises DataError for a pipe or a device."""
    handle = os.open(path, flags | locks.PLAIN, 0o666)
    try:
        files.require_plain(handle, path)
    except DataError:
        os.close(handle)
        raise
    return os.fdopen(handle, "r" if flags == os.O_RDONLY else "a+", encoding="utf-8", errors="replace")


def _introduction(lock: TextIO) -> str:
    lock.seek(0)
    return lock.read().strip() or "another process"


def _prepare(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"{path} is a file, not a folder", "move it or give another `name`") from None
    except NotADirectoryError:
        raise ConfigError(f"{path} cannot be made: part of it is a file", "give another `runs_dir`") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}", "give another `runs_dir`") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"{path} is not writable", "change its permissions or give another `runs_dir`")
