"""Stopping on a signal: in a loop the handler only sets a flag, and the work ends at its next safe point.

Before and after a loop a signal to stop ends the work where it is, with the same exit code.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from ..errors import OtherProcessFailed, Stopped, UserError

_AGAIN = "run the same command again to continue"


def _known(*names: str) -> list[signal.Signals]:
    """Return the signals of these names that the system has: Windows lacks some."""
    return [signal.Signals[name] for name in names if name in signal.Signals.__members__]


# SIGHUP: the terminal is gone, as after a lost connection.
_STOPPING = _known("SIGTERM", "SIGHUP", "SIGINT", "SIGUSR1")
INTERRUPTED_TWICE = 130
_SOON = 0.01  # seconds


class StopFlag:
    """Whether a signal asked for a stop, and which."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.received is not None

    def stopped(self, where: str) -> Stopped:
        """Return the error that ends the work; `where` states the progress."""
        assert self.received is not None
        return Stopped(f"stopped by {self.received.name} {where}", _AGAIN)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            os._exit(INTERRUPTED_TWICE)
        self.received = signal.Signals(number)


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Yield a flag that SIGTERM, SIGHUP, SIGINT and SIGUSR1 set; a second Ctrl-C ends the process at once with 130.

    An error after a signal counts as the stop: Ctrl-C also ends the programs that the work had started, a compiler say.
    """
    flag = StopFlag()
    with _handled(_STOPPING, flag._handle):
        try:
            yield flag
        except (UserError, OtherProcessFailed):
            raise
        except Exception as error:
            if not flag:
                raise
            raise flag.stopped("in the middle of a step") from error


@contextmanager
def finish_flag() -> Iterator[StopFlag]:
    """Yield a flag that SIGUSR2 sets: the work is to end with what there is, as if no more had been asked for."""
    flag = StopFlag()
    with _handled(_known("SIGUSR2"), flag._handle):
        yield flag


class _Signal(BaseException):
    """A signal, on its way past whatever catches errors."""


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Leave a block with Stopped on SIGTERM, SIGHUP and SIGUSR1, wherever it is not in a `stop_flag` block."""

    received: list[signal.Signals] = []
    again: list[threading.Timer] = []

    def leave(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        raise _Signal

    def dropped(found: "sys.UnraisableHookArgs") -> None:
        # In a finaliser Python drops what is raised: the signal comes again, when that is over.
        if isinstance(found.exc_value, _Signal):
            again.append(threading.Timer(_SOON, os.kill, (os.getpid(), received[0])))
            again[-1].start()
        else:
            before(found)

    before, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        with _handled([number for number in _STOPPING if number != signal.SIGINT], leave):
            yield
    except (_Signal, Exception):
        if not received:
            raise
        # Readers in other languages turn what passes through them into errors of their own.
        raise Stopped(f"stopped by {received[0].name}", _AGAIN) from None
    finally:
        sys.unraisablehook = before
        for timer in again:  # where the block is over first
            timer.cancel()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let signals to stop end the process inside a block that waits in C++, where no handler of Python's would run."""
    with _handled(_STOPPING, signal.SIG_DFL):
        yield


@contextmanager
def _handled(
    numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None] | signal.Handlers
) -> Iterator[None]:
    """Handle signals inside a block, but those that are ignored, as `nohup` asks. Python does so in its main thread."""
    previous = {}
    if threading.current_thread() is threading.main_thread():
        chosen = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        previous = {number: signal.signal(number, handler) for number in chosen}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
