"""Class names and the little language of `--class`: names, indices, lists, ranges, all. Imports no torch."""

import difflib
import re
import unicodedata
from collections.abc import Sequence

from ..errors import ConfigError


def parse_classes(text: str, names: Sequence[str]) -> list[int]:
    """Read `3`, `tench`, `0-4`, `cat,dog`, `all` as class indices, in the order given, each once.

    A name wins over an index, and a name that holds a comma or dash over a list or range. Raises ConfigError with
    the nearest names.
    """
    if text.strip().lower() == "all" and text not in names:
        return list(range(len(names)))
    chosen: list[int] = []
    for part in [text] if text in names else text.split(","):
        chosen += [index for index in _one(part.strip(), names) if index not in chosen]
    return chosen


def _one(part: str, names: Sequence[str]) -> list[int]:
    wanted, folded = _folded(part), [_folded(name) for name in names]
    if part in names:
        return [names.index(part)]
    if folded.count(wanted) == 1:
        return [folded.index(wanted)]
    span = re.fullmatch(r"(\d{1,18})(?:\s*-\s*(\d{1,18}))?", part)
    if span is not None:
        first, last = int(span[1]), int(span[2] or span[1])
        if first > last:
            raise ConfigError(f"--class {part} runs backwards", f"write {last}-{first}")
        if last >= len(names):
            raise ConfigError(f"--class {part} is outside 0 … {len(names) - 1}", f"the classes are {_listing(names)}")
        return list(range(first, last + 1))
    near = difflib.get_close_matches(wanted, folded, n=1)
    hint = f"did you mean {names[folded.index(near[0])]!r}?" if near else f"the classes are {_listing(names)}"
    raise ConfigError(f"--class {part!r} is no class of this model", hint)


def _folded(name: str) -> str:
    """Fold case, and what two systems write in different ways: a folder's é may be e and an accent."""
    return unicodedata.normalize("NFC", name).casefold()


def _listing(names: Sequence[str], limit: int = 12) -> str:
    shown = ", ".join(f"{index} {name}" for index, name in enumerate(names[:limit]))
    return shown + (f", … {len(names) - 1} {names[-1]}" if len(names) > limit else "")
