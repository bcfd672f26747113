"""`--json`: one JSON object a line on stdout for everything that happens, for programs to read."""

import json
import math
import time
from collections.abc import Callable
from typing import Any, TextIO

from ..core.progress import Outcome
from ..core.system import machine
from .console import Plain
from .failures import Failure
from .pace import Pace

_INTERVAL = 1.0  # seconds between progress events


class Events(Plain):
    """Writes events: start, progress (at most one a second), finish, note, warning, outcome, error."""

    def __init__(self, out: TextIO, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(out, out, quiet, _INTERVAL, clock)
        self._shown = -math.inf

    def start(self, title: str, total: int, unit: str, done: int = 0) -> None:
        self._work.append(Pace(title, total, unit, done, self._clock))
        self._event("start", title=title, total=total, unit=unit, done=done)

    def update(self, done: int, **numbers: float) -> None:
        pace = self._work[-1]
        pace.update(done, numbers)
        if self._clock() - self._shown >= self._interval:
            self._shown = self._clock()
            self._event(
                "progress",
                title=pace.title,
                done=done,
                total=pace.total,
                rate=pace.rate,
                seconds_left=pace.seconds_left,
                numbers=pace.numbers,
                memory_bytes=machine.used_memory(),
                gpu_memory_bytes=machine.used_gpu_memory(),
            )

    def finish(self) -> None:
        pace = self._work.pop()
        self._event("finish", title=pace.title, done=pace.done, seconds=pace.elapsed, numbers=pace.numbers)

    def note(self, message: str) -> None:
        self._event("note", message=message)

    def warn(self, message: str) -> None:
        self._write("warning", message=message)

    def outcome(self, command: str, outcome: Outcome) -> None:
        self._event(
            "outcome",
            command=command,
            directory=str(outcome.directory),
            already_complete=outcome.already_complete,
            verdict=outcome.verdict,
            summary=outcome.summary,
            facts=outcome.facts,
            pictures=[str(path) for path in outcome.pictures],
            next_commands=outcome.next_commands,
        )

    def failure(self, failure: Failure) -> None:
        """Report what ended the command."""
        self._write("error", message=failure.message, remedy=failure.remedy, exit_code=failure.exit_code)

    def _event(self, event: str, **content: Any) -> None:
        if not self._quiet:
            self._write(event, **content)

    def _write(self, event: str, **content: Any) -> None:
        self._out.write(json.dumps({"event": event, **_finite(content)}, allow_nan=False) + "\n")
        self._out.flush()


def _finite(value: Any) -> Any:
    """Return a value with every NaN and infinity, which JSON has no word for, as null."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
