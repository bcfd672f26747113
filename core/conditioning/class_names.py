"""Class names and the syntax of `--class`: names, indices, lists, ranges, all. Imports no torch."""

import difflib
import re
import shlex
import unicodedata
from collections.abc import Sequence

from ..errors import ConfigError


def parse_classes(text: str, names: Sequence[str]) -> list[int]:
    """Read `3`, `tench`, `0-4`, `cat,dog`, `all` as class indices, in the order given, each once.

    A name goes before an index, and a name with a comma or dash before a list or range; classes that are all named by
    numbers have no indices. Case does not matter, and `_`
    may stand for a space, where one name fits. Raises ConfigError with the nearest names.
    """
    if text.strip().lower() == "all" and text not in names:
        return list(range(len(names)))
    whole = _named(text, names)
    if whole is not None:
        return [whole]
    chosen: list[int] = []
    for part in text.split(","):
        chosen += [index for index in _one(part.strip(), names) if index not in chosen]
    return chosen


def class_flag(names: Sequence[str]) -> str:
    """Return the flag that asks for the first class by its name, with a space behind it; nothing without classes."""
    return f"--class {shlex.quote(names[0])} " if names else ""


def _named(word: str, names: Sequence[str]) -> int | None:
    """Return the class of that name, as it is written or else as only one is when folded."""
    if word in names:
        return names.index(word)
    folded = [_folded(name) for name in names]
    return folded.index(_folded(word)) if folded.count(_folded(word)) == 1 else None


def _one(part: str, names: Sequence[str]) -> list[int]:
    named = _named(part, names)
    if named is not None:
        return [named]
    span = re.fullmatch(r"(\d{1,18})(?:\s*-\s*(\d{1,18}))?", part)
    if span is not None:
        first, last = int(span[1]), int(span[2] or span[1])
        if first > last:
            raise ConfigError(f"`classes={part}` runs backwards", f"write {last}-{first}")
        if _are_numbers(names):  # Then a number is a name, and never an index.
            numbered = sorted((int(name), index) for index, name in enumerate(names))
            within = [index for number, index in numbered if first <= number <= last]
            if len(within) <= last - first:
                what = "are not all classes" if last > first else "is not a class"
                raise ConfigError(f"`classes={part}` {what}", f"name one of the classes: {_listing(names)}")
            return within
        if last >= len(names):
            raise ConfigError(
                f"`classes={part}` is outside 0 … {len(names) - 1}", f"name one of the classes: {_listing(names)}"
            )
        return list(range(first, last + 1))
    folded = [_folded(name) for name in names]
    near = difflib.get_close_matches(_folded(part), folded, n=1)
    hint = f"did you mean {names[folded.index(near[0])]!r}?" if near else f"name one of the classes: {_listing(names)}"
    raise ConfigError(f"`classes={part}` is an unknown class", hint)


def _folded(name: str) -> str:
    """Fold case, `_` and space, and Unicode forms that systems differ in: a folder's é may be e and an accent."""
    return unicodedata.normalize("NFC", name).casefold().replace("_", " ")


def _are_numbers(names: Sequence[str]) -> bool:
    return all(re.fullmatch(r"[0-9]{1,18}", name) for name in names)


def _listing(names: Sequence[str], limit: int = 12) -> str:
    listed = list(names) if _are_numbers(names) else [f"{index} {name}" for index, name in enumerate(names)]
    return ", ".join(listed[:limit]) + (f", … {listed[-1]}" if len(names) > limit else "")
