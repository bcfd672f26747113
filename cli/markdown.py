"""Text as Markdown, for the pages that `ldm config reference` writes."""

import re
from collections.abc import Iterable

MADE = "<!-- Written by `ldm config reference docs`; edit the program's help instead. -->"


def codes(words: Iterable[str]) -> str:
    """Return words as code, with commas."""
    return ", ".join(f"`{word}`" for word in words)


def escaped(text: str) -> str:
    """Return text so that Markdown shows it as it stands; what is in backticks is code."""
    return "".join(
        p if p.startswith("`") else re.sub(r"([*_<>\[\]|])", r"\\\1", p) for p in re.split("(`[^`]*`)", text)
    )
