"""Locks of files that the system frees with the process, however that ends: flock, or on Windows a locked byte."""

import os

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_BEYOND = 1 << 30  # the byte that is locked on Windows, where a locked byte cannot be read: behind what files hold

# What some systems lack: no waiting for the other end of a pipe, and line ends as they are.
PLAIN = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def lock(handle: int, shared: bool = False) -> bool:
    """Lock an open file for this process without waiting; return whether no other process has it.

    shared: several processes may have it, if all ask so; on Windows one has it nevertheless. It is freed when the file
    is closed.
    """
    try:
        if fcntl is not None:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        else:
            _lock_byte(handle)
    except BlockingIOError:
        return False
    return True


def _lock_byte(handle: int) -> None:
    """Lock one byte of a file on Windows. Raises BlockingIOError where another process has locked it."""
    import msvcrt

    at = os.lseek(handle, 0, os.SEEK_CUR)
    os.lseek(handle, _BEYOND, os.SEEK_SET)
    try:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as error:
        raise BlockingIOError(error.errno, "locked by another process") from None
    finally:
        os.lseek(handle, at, os.SEEK_SET)
