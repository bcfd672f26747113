"""Stopping on a signal: the handler only sets a flag, the work ends at its next safe point."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..errors import Stopped

_STOPPING = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
INTERRUPTED_TWICE = 130


class StopFlag:
    """Whether a signal asked for a stop, and which."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.received is not None

    def stopped(self, where: str) -> Stopped:
        """Return the error that ends the work; `where` states the progress."""
        assert self.received is not None
        return Stopped(f"stopped by {self.received.name} {where}", "run the same command again to continue")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            os._exit(INTERRUPTED_TWICE)
        self.received = signal.Signals(number)


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Yield a flag that SIGTERM, SIGINT and SIGUSR1 set; a second Ctrl-C ends the process at once with 130."""
    flag = StopFlag()
    previous = {number: signal.signal(number, flag._handle) for number in _STOPPING}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
