"""How the parts tell whoever runs them what is going on, without printing."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


class Progress(Protocol):
    """Receives what a stage does as it does it; the command line shows it, a notebook may ignore it."""

    def start(self, title: str, total: int, unit: str, done: int = 0) -> None:
        """Begin a piece of work of `total` units, `done` of which were there already."""

    def update(self, done: int, **numbers: float) -> None:
        """Tell that `done` units are finished; `numbers` are current readings such as the loss."""

    def finish(self) -> None:
        """End the piece of work begun last."""

    def note(self, message: str) -> None:
        """Tell something worth knowing."""

    def warn(self, message: str) -> None:
        """Tell something the user should look at."""


class Silent:
    """Ignores everything."""

    def start(self, title: str, total: int, unit: str, done: int = 0) -> None: ...
    def update(self, done: int, **numbers: float) -> None: ...
    def finish(self) -> None: ...
    def note(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """What a stage hands back: where it wrote, whether it had anything to do, what came out and what to run next.

    verdict: what a tool that only looks found there, which is told instead; facts: the same for programs, JSON;
    exit_code: what the command ends with, other than 0 where what was found is bad.
    """

    directory: Path
    already_complete: bool = False
    summary: dict[str, str] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)
    next_commands: list[str] = field(default_factory=list)
    verdict: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0
