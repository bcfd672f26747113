"""How many bytes of memory images may take beyond a fair share of their files: all threads together, and each image.

A file of ordinary images becomes a few dozen bytes of pixels for each of its own; that much is free. What goes beyond
comes out of one budget that all threads share, so that no choice of files fills the memory, however many are decoded
at once.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import DataError

PER_BYTE = 64  # bytes in memory for each stored byte that cost nothing: a photograph takes about 20
TOTAL = 176 << 20
_REMEDY = "shrink or remove it"


class Unpacked(bytes):
    """A file out of an archive in which it takes fewer bytes, `stored`, than it has."""

    stored: int

    def __new__(cls, content: bytes, stored: int) -> "Unpacked":
        made = super().__new__(cls, content)
        made.stored = stored
        return made


class Budget:
    """So many bytes, for the threads that decode."""

    def __init__(self, total: int) -> None:
        self.total = self._free = total
        self._changed = threading.Condition()
        self._thread = threading.local()

    @contextmanager
    def unit(self) -> Iterator[None]:
        """Enclose a thread's work on one image: what it takes inside is free again afterwards. Units may be nested."""
        if self._held() is not None:
            yield
            return
        self._thread.held = 0
        try:
            yield
        finally:
            self._exchange(0)
            self._thread.held = None

    def take(self, num_bytes: int, stored: int, name: str) -> None:
        """Wait, inside a unit, until bytes that come from `stored` ones may be taken.

        Raises DataError naming the image where they are more than all threads together may take.
        """
        beyond = num_bytes - PER_BYTE * stored
        if beyond > self.total:
            megabytes = f"{num_bytes / 1e6:,.0f} MB of memory from {stored:,} bytes"
            raise DataError(f"{name} would take {megabytes}, like a decompression bomb", _REMEDY)
        held = self._held()
        if held is not None and beyond > 0:
            self._exchange(min(held + beyond, self.total))

    def _exchange(self, wanted: int) -> None:
        """Give back what this thread holds, then wait for `wanted`: threads that hold some and wait would block."""
        with self._changed:
            self._free += self._held() or 0
            self._thread.held = 0
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._free >= wanted)
            self._free -= wanted
            self._thread.held = wanted

    def _held(self) -> int | None:
        held: int | None = getattr(self._thread, "held", None)
        return held


MEMORY = Budget(TOTAL)


def stored_bytes(content: bytes) -> int:
    """Return how many bytes a file takes where it is kept."""
    return content.stored if isinstance(content, Unpacked) else len(content)
