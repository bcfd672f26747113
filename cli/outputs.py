"""Standard output and error of the command: what is written there never ends it."""

import codecs
import errno
import io
import os
import sys
from typing import TextIO

from typing_extensions import Buffer

_PLAIN = {"×": "x", "…": "...", "→": "->", "█": "#", "▏": "|", "±": "+-", "−": "-", "≥": ">=", "≤": "<="}
# A pipe that nobody reads any more; a terminal that is gone; a file that is open for reading only.
_READER_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)


def secure_outputs() -> None:
    """Write what an encoding lacks in plain letters or as escapes, and drop what nobody can read any more.

    An output that is closed becomes the null device: else the next file that is opened would get its number, and what
    is written.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    codecs.register_error("plain", _in_plain_letters)
    sys.stdout, sys.stderr = _secured(sys.stdout, 1), _secured(sys.stderr, 2)


def _secured(stream: TextIO | None, number: int) -> TextIO:
    encoding = stream.encoding if stream is not None else "utf-8"
    raw = _Output(number, "wb", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "plain", line_buffering=number == 2 or raw.isatty())


class _Output(io.FileIO):
    """A file that takes everything, also when its reader is gone."""

    def write(self, data: Buffer) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _READER_GONE:
                raise
            return memoryview(data).nbytes


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    letters = error.object[error.start : error.end]
    plain = (_PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in letters)
    return "".join(plain), error.end
