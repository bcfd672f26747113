"""What a command shows: progress while it works, warnings, what came out. Progress goes to stderr, results to stdout.

On a terminal progress is a live bar (`live`); elsewhere, as here, a plain line every ten seconds, after ten minutes
every minute; with `--json` one JSON object a line on stdout (`events`); with `--quiet` only warnings.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

from ..core.progress import Outcome, duration
from .distributed import is_follower
from .failures import Failure
from .pace import Pace, memory
from .text import listed, one_line

INTERVAL = 10.0  # seconds between plain lines
_STEADY, _SLOWER = 60, 6.0  # intervals after which lines come less often, and by how much: every minute after ten


def open_console(quiet: bool = False, json: bool = False) -> "Plain":
    """Return the console that suits the switches and where the output goes.

    Under torchrun only the first process shows anything but warnings.
    """
    if json:
        from .events import Events

        return Events(sys.stdout, quiet=quiet or is_follower())
    if quiet or is_follower():
        return Plain(sys.stderr, sys.stdout, quiet=True)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from .live import Live

        return Live(sys.stderr, sys.stdout)
    return Plain(sys.stderr, sys.stdout)


class Plain:
    """Writes plain lines: one every `interval` seconds of the outermost work, one at its end, none of it coloured.

    A `Progress` that also shows how a command ended; a context that leaves the terminal as it was.
    """

    def __init__(
        self,
        log: TextIO,
        out: TextIO,
        quiet: bool = False,
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._out, self._quiet, self._interval, self._clock = log, out, quiet, interval, clock
        self._work: list[Pace] = []
        self._warned: set[str] = set()
        self._shown = clock()

    def __enter__(self) -> "Plain":
        return self

    def __exit__(self, *_: object) -> None:
        self._work.clear()

    def start(self, title: str, total: int, unit: str, done: int = 0) -> None:
        pace = Pace(title, total, unit, done, self._clock)
        self._work.append(pace)
        self._shown = self._clock()
        if len(self._work) == 1:
            already = f", {done:,} done before" if done else ""
            self._say(f"{title}: {pace.counted(total)}{already}")

    def update(self, done: int, **numbers: float) -> None:
        pace = self._work[-1]
        pace.update(done, numbers)
        slower = _SLOWER if self._work[0].elapsed >= _STEADY * self._interval else 1.0
        if self._clock() - self._shown >= slower * self._interval:
            self._shown = self._clock()
            self._say(progress_line(pace))

    def finish(self) -> None:
        pace = self._work.pop()
        if not self._work or pace.elapsed >= self._interval:
            self._say(finish_line(pace))

    def note(self, message: str) -> None:
        self._say(message)

    def warn(self, message: str) -> None:
        if message not in self._warned:  # A sweep evaluates many times what it warns of.
            self._warned.add(message)
            self._warning(message)

    def _warning(self, message: str) -> None:
        self._log.write(f"warning: {one_line(message)}\n")
        self._log.flush()

    def outcome(self, command: str, outcome: Outcome) -> None:
        """Show what was written and what to run next; with --quiet the folder alone."""
        if self._quiet and outcome.verdict is None and not is_follower():
            self._out.write(one_line(str(outcome.directory)) + "\n")
            self._out.flush()
        elif not self._quiet:
            self._out.write("\n".join(outcome_lines(command, outcome)) + "\n")
            self._out.flush()

    def _say(self, line: str) -> None:
        if not self._quiet:
            self._log.write(one_line(line) + "\n")
            self._log.flush()


def progress_line(pace: Pace) -> str:
    """Return one line on how far a piece of work is."""
    share = f" ({min(100, 100 * pace.done // pace.total)}%)" if pace.total else ""
    left = f"{duration(pace.seconds_left)} left" if pace.seconds_left is not None else ""
    parts = (f"{pace.title}: {pace.done:,} of {pace.counted(pace.total)}{share}", pace.speed(pace.rate), left)
    return "  ".join(filter(None, (*parts, pace.readings(), memory())))


def finish_line(pace: Pace) -> str:
    """Return one line on how long a piece of work took."""
    speed = f" ({pace.speed(pace.mean_rate)})" if pace.mean_rate else ""
    return "  ".join(
        filter(None, (f"{pace.title}: {pace.counted(pace.done)} in {duration(pace.elapsed)}{speed}", pace.readings()))
    )


def outcome_lines(command: str, outcome: Outcome) -> list[str]:
    """Return what was written, as aligned lines, and what to run next."""
    if outcome.verdict is not None:
        lines = [f"ldm {command}: {outcome.directory} {outcome.verdict}"]
    elif outcome.already_complete:
        lines = [f"ldm {command}: {outcome.directory} is complete already; nothing to do"]
    else:
        lines = [f"ldm {command}: wrote {outcome.directory}"]
    rows = [*outcome.summary.items(), *(("picture", str(path)) for path in outcome.pictures)]
    width = max((len(name) for name, _ in rows), default=0)
    lines += [f"  {name:<{width}}  {value}" for name, value in rows]
    if outcome.next_commands:
        lines += ["next:", *(f"  {command}" for command in outcome.next_commands)]
    return [one_line(line) for line in lines]


def show_failure(failure: Failure, json: bool) -> None:
    """Show what went wrong and what to do about it, on stderr; with `--json` also as an event on stdout."""
    if json:
        from .events import Events

        Events(sys.stdout).failure(failure)
    red, bold, plain = ("\033[31m", "\033[1m", "\033[0m") if _is_coloured(sys.stderr) else ("", "", "")
    sys.stderr.write(f"{red}{bold}error:{plain} {listed(failure.message)}\n")
    if failure.remedy:
        sys.stderr.write(f"{bold} hint:{plain} {listed(failure.remedy)}\n")
    sys.stderr.flush()


def _is_coloured(stream: TextIO) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
