"""CLIP's byte-pair encoding (Radford et al. 2021): texts as ids 0 … 49,407. Imports no torch.

256 bytes, the same at the end of a word, 48,894 merged pairs, the start and the end of a text. Texts are in Unicode's
composed form, unescaped from HTML, in lower case; runs of spaces are one.
"""

import gzip
import hashlib
import html
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

MERGES = Path(__file__).parent / "builtin" / "clip-bpe" / "merges.txt.gz"
NUM_IDS = 49_408
START, END = NUM_IDS - 2, NUM_IDS - 1

_SHORTENED = re.compile(r"'(?:s|t|re|ve|m|ll|d)")
_WORD_END = "</w>"
_LETTER, _DIGIT, _SPACE, _SIGN = range(4)


def encode(text: str) -> list[int]:
    """Return the ids of a text, the start and the end of it among them. Any text has some: bytes are ids too."""
    return [START, *(each for word in words(text) for each in ids_of(word)), END]


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case: shortened verbs, runs of letters, single digits, other signs."""
    plain = html.unescape(html.unescape(unicodedata.normalize("NFC", text)))
    return list(_divided(" ".join(plain.split()).lower()))


def parts() -> list[str]:
    """Return the part of a word that each id is; `</w>` is the word's end."""
    return [*_vocabulary()[2], "<start>", "<end>"]


@lru_cache
def merges_sha256() -> str:
    """Return the sha256 of the merges, hex, by which a manifest records the vocabulary."""
    return hashlib.sha256(gzip.decompress(MERGES.read_bytes())).hexdigest()


def _divided(text: str) -> Iterator[str]:
    """Divide a text as CLIP's pattern does."""
    position = 0
    while position < len(text):
        kind = _kind(text[position])
        shortened = _SHORTENED.match(text, position)
        end = position + 1 if shortened is None else shortened.end()
        while shortened is None and kind in (_LETTER, _SIGN) and end < len(text) and _kind(text[end]) == kind:
            end += 1
        if kind != _SPACE:
            yield text[position:end]
        position = end


@lru_cache(1 << 16)
def _kind(character: str) -> int:
    if character.isspace():
        return _SPACE
    return {"L": _LETTER, "N": _DIGIT}.get(unicodedata.category(character)[0], _SIGN)


@lru_cache(1 << 16)
def ids_of(word: str) -> tuple[int, ...]:
    """Return the ids of a word: its bytes, of which the pair that was merged first is merged first."""
    bytes_, ranks, ids = _vocabulary()
    letters = [bytes_[byte] for byte in word.encode()]
    found = [*letters[:-1], letters[-1] + _WORD_END]
    while len(found) > 1:
        pairs = list(pairwise(found))
        best = min(pairs, key=lambda pair: ranks.get(pair, NUM_IDS))
        if best not in ranks:
            break
        merged, position = list[str](), 0
        while position < len(found):
            here = position < len(pairs) and pairs[position] == best
            merged.append("".join(best) if here else found[position])
            position += 2 if here else 1
        found = merged
    return tuple(ids[part] for part in found)


@lru_cache
def _vocabulary() -> tuple[list[str], dict[tuple[str, str], int], dict[str, int]]:
    """Return the letter of each byte, the rank of each merged pair, and the id of each part of a word."""
    # Bytes that are not signs of Latin-1 have letters from 256 on; the others stand for themselves, and come first.
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(rest)}
    lines = gzip.decompress(MERGES.read_bytes()).decode().rstrip("\n").split("\n")
    first, second = zip(*(line.split(" ") for line in lines), strict=True)
    pairs = list(zip(first, second, strict=True))
    singles = list(letters.values())
    all_parts = [*singles, *(letter + _WORD_END for letter in singles), *map("".join, pairs)]
    assert len(all_parts) == START, f"{len(all_parts)} parts"
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    return [letters[byte] for byte in range(256)], ranks, {part: number for number, part in enumerate(all_parts)}
