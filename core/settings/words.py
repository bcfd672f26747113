"""Settings as they are typed, and the known word that a user may have meant."""

import difflib
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any


def typed(value: Any) -> str:
    """Write the value of a setting as one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "yes", False: "no"}[value]
    if isinstance(value, (list, tuple)):
        return ",".join(map(typed, value))
    if isinstance(value, PurePath):
        return value.as_posix()
    brief = f"{value:g}" if isinstance(value, float) else ""
    return brief if brief and float(brief) == value else str(value)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word most like `word`: equal but for its section, or close in spelling."""
    plain = {_plain(candidate): candidate for candidate in reversed(list(known))}
    leaves = {candidate.rpartition(".")[2]: original for candidate, original in plain.items()}
    wanted = _plain(word)
    leaf = wanted.rpartition(".")[2]
    if leaf in leaves:
        return leaves[leaf]
    for choices, cutoff, text in ((plain, 0.6, wanted), (leaves, 0.75, leaf)):
        for match in difflib.get_close_matches(text, choices, n=1, cutoff=cutoff):
            return choices[match]
    return None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?`, or nothing when no known word is like it."""
    guess = nearest(word, known)
    return f"; did you mean {guess}?" if guess else ""


def _plain(word: str) -> str:
    return word.replace("_", "-").lower()
