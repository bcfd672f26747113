"""Help pages: usage, settings grouped by section with their defaults, further keys, examples.

Written out here and not by typer's rich pages, whose imports alone take a third of the time help may take.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

_MAX_WIDTH = 110
_MAX_LEFT = 34

Row = tuple[str, str]


@dataclass(frozen=True)
class Manual:
    """What the help of a command shows.

    groups: headings, and under each rows of (what to type, what it does); further: what to call the keys that have no
    flag, and those keys.
    """

    usage: str
    summary: str
    groups: Sequence[tuple[str, Sequence[Row]]]
    examples: Sequence[str]
    further: tuple[str, Sequence[str]] = ("", ())


def page(manual: Manual) -> str:
    """Return a command's help page."""
    width = min(shutil.get_terminal_size((100, 24)).columns, _MAX_WIDTH)
    lines = [f"{_bold('Usage:')} {manual.usage}", "", *textwrap.wrap(manual.summary, width), ""]
    above, keys = manual.further
    for heading, rows in [*manual.groups, (above, [("", " ".join(keys))] if keys else [])]:
        if rows:
            lines += [
                *map(_bold, textwrap.wrap(heading, width)),
                *(line for row in rows for line in _row(row, width)),
                "",
            ]
    lines += [_bold("Examples"), *(f"  {example}" for example in manual.examples)]
    return "\n".join(lines) + "\n"


def _row(row: Row, width: int) -> list[str]:
    left, right = row
    if not left:
        return textwrap.wrap(right, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    column = min(_MAX_LEFT, width // 2)
    wrapped = textwrap.wrap(right, max(20, width - column)) or [""]
    first = f"  {left:<{column - 4}}  "
    if len(left) > column - 4:
        return [f"  {left}", *(" " * column + line for line in wrapped)]
    return [first + wrapped[0], *(" " * column + line for line in wrapped[1:])]


def _bold(text: str) -> str:
    """Mark a heading on a terminal that may be coloured."""
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty()
    return text if plain else f"\033[1m{text}\033[0m"
