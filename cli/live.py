"""Progress on a terminal: a bar for each piece of work under way, redrawn in place, gone when its work is done."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live as Redrawn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..core.progress import Outcome, duration
from .console import Plain, finish_line
from .pace import Pace, memory
from .text import one_line

_REDRAWS = 8.0  # a second, at most
_NARROW = 60  # columns under which the bar gives way to the numbers
_INDENT = "  "  # of the rows after the first


class Live(Plain):
    """As `Plain`, with bars in place of the lines. Redraws from the caller's thread only, so that forks are safe."""

    def __init__(self, log: TextIO, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(log, out, clock=clock)
        self._console = Console(file=log, highlight=False, soft_wrap=True)
        self._live: Redrawn | None = None
        self._drawn = 0.0

    def __enter__(self) -> "Live":
        return self

    def __exit__(self, *_: object) -> None:
        self._work.clear()
        self._stop()

    def start(self, title: str, total: int, unit: str, done: int = 0) -> None:
        self._work.append(Pace(title, total, unit, done, self._clock))
        if self._live is None:
            self._live = Redrawn(self, console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._redraw()

    def update(self, done: int, **numbers: float) -> None:
        self._work[-1].update(done, numbers)
        if self._clock() - self._drawn >= 1 / _REDRAWS:
            self._redraw()

    def finish(self) -> None:
        pace = self._work.pop()
        if self._work:
            self._redraw()
        else:
            self._stop()
            self._say(finish_line(pace))

    def _warning(self, message: str) -> None:
        self._console.print(Text.assemble(("warning: ", "yellow"), one_line(message)))

    def outcome(self, command: str, outcome: Outcome) -> None:
        self._stop()
        super().outcome(command, outcome)

    def _say(self, line: str) -> None:
        self._console.print(Text(one_line(line)))

    def _redraw(self) -> None:
        assert self._live is not None
        self._drawn = self._clock()
        self._live.refresh()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for pace in self._work:
            yield from _rows(pace, options.max_width, memory() if pace is self._work[-1] else "")


def _rows(pace: Pace, width: int, held: str) -> Iterator[RenderableType]:
    """Lay out one piece of work: title, bar, count, speed, time left, readings, memory.

    What does not fit in a row goes on in the next; under `_NARROW` columns there is no bar.
    """
    left = f"{duration(pace.seconds_left)} left" if pace.seconds_left is not None else ""
    words = [f"{pace.done:,}/{pace.counted(pace.total)}", pace.speed(pace.rate), left, *pace.each_reading(), held]
    bar = min(24, width // 5) if width >= _NARROW else 0
    room = width - len(pace.title) - 1 - (bar + 1 if bar else 0)
    first, *others = _filled(filter(None, words), room, width - len(_INDENT))
    row = Table.grid(padding=(0, 1, 0, 0))
    drawn = [ProgressBar(total=max(pace.total, 1), completed=pace.done, width=bar)] if bar else []
    for width_of_column in (None, *([bar] if bar else []), None):
        row.add_column(no_wrap=True, width=width_of_column)
    row.add_row(Text(pace.title, style="bold"), *drawn, Text(first))
    yield row
    for words_of_row in others:
        yield Text(_INDENT + words_of_row)


def _filled(words: Iterable[str], first: int, others: int) -> list[str]:
    """Join words to as few rows as hold them; the first has room for `first` characters, and may stay empty."""
    rows, room = [""], first
    for word in words:
        joined = f"{rows[-1]}  {word}" if rows[-1] else word
        if len(joined) <= room:
            rows[-1] = joined
        else:
            rows.append(word)
            room = others
    return rows
