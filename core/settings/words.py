"""The known word that a user may have meant."""

import difflib
from collections.abc import Iterable


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
