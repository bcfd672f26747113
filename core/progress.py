"""How stages report progress and results to their caller, without printing."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


class Progress(Protocol):
    """Receives what a stage reports while it runs; the command line shows it, a notebook may ignore it."""

    def start(self, title: str, total: int, unit: str, done: int = 0) -> None:
        """Start a task of `total` units, of which `done` are finished already."""

    def update(self, done: int, **numbers: float) -> None:
        """Report that `done` units are finished; `numbers` are current values such as the loss."""

    def finish(self) -> None:
        """End the task started last."""

    def note(self, message: str) -> None:
        """Report something worth knowing."""

    def warn(self, message: str) -> None:
        """Warn of something that the user should check."""


class Silent:
    """Ignores everything."""

    def start(self, title: str, total: int, unit: str, done: int = 0) -> None: ...
    def update(self, done: int, **numbers: float) -> None: ...
    def finish(self) -> None: ...
    def note(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """What a stage returns: where it wrote, whether that was complete already, a summary, and what to run next.

    verdict: what a read-only tool found, shown in place of what was written. facts: the same as JSON, for programs.
    exit_code: the command's exit code, not 0 where the tool found a fault.
    """

    directory: Path
    already_complete: bool = False
    summary: dict[str, str] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)
    next_commands: list[str] = field(default_factory=list)
    verdict: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0


def number_of(count: int, noun: str) -> str:
    """Write a number of things: 1 image, 2,000 images, 3 classes."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def duration(seconds: float) -> str:
    """Write a time span: 8.2 s, 42 s, 5 min 12 s, 3 h 4 min, and from two days on 5 days 2 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 2 * 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400:,} days {whole % 86_400 // 3600} h"
