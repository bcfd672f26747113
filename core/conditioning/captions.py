"""Captions as samples of latents keep them, and which of an image's captions a training reads.

All captions of an image stand one after the other: their ids or vectors in one array, and how long each is. The last
ones may be synthetic: a second set, made by a program, of which training reads a share.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .. import seeds

IDS_FIELD, TOKENS_FIELD = "caption_ids.npy", "caption_tokens.npy"  # uint16 (N,); float16 (N, W)
LENGTHS_FIELD = "caption_lengths.npy"  # uint16 (K,), of each caption, their sum is N
POOLED_FIELD = "caption_pooled.npy"  # float16 (K, P)
SYNTHETIC_FIELD = "caption_synthetic.npy"  # uint8 (), how many of the K are synthetic
TEXT_FIELD = "txt"  # a line for each

Fields = tuple[dict[str, np.ndarray], dict[str, str]]  # arrays and texts of a sample
Take = Callable[[str], Sequence[np.ndarray]]
"""Returns a field's array of each sample of a batch, by the field's name."""


@dataclass(frozen=True)
class Encoded:
    """A text as an encoder made it.

    rows: ids, uint16 (N,), or vectors of tokens, float16 (N, W). pooled: one vector of the whole, float16 (P,), if any.
    cut: whether the text was longer than N tokens.
    """

    rows: np.ndarray
    pooled: np.ndarray | None = None
    cut: bool = False


class TextEncoder(Protocol):
    """What makes ids or vectors of texts."""

    @property
    def rows_field(self) -> str:
        """The field of samples that its rows are kept in."""

    @property
    def most(self) -> int:
        """The most tokens of a text that it takes."""

    @property
    def fixed(self) -> int | None:
        """How many tokens every text has, where padding is seen; None where it is masked."""

    @property
    def files(self) -> dict[str, str]:
        """The folders that it was read from, by their role among a stage's inputs, with the sha256 of each."""

    def describe(self) -> dict[str, Any]:
        """Return JSON by which it is found again and distinguished from others."""

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens texts have, uncut."""

    def encode(self, texts: Sequence[str], length: int) -> list[Encoded]:
        """Encode texts, each cut to at most `length` tokens, the end of the text always among them."""


def fields_of_captions(
    rows_field: str, texts: Sequence[str], encoded: Sequence[Encoded], synthetic: int | None
) -> Fields:
    """Return the arrays and the text of a sample with these captions, as shards keep them.

    synthetic: how many of them are; None where the data have no second set.
    """
    arrays = {
        rows_field: np.concatenate([each.rows for each in encoded]),
        LENGTHS_FIELD: np.array([len(each.rows) for each in encoded], dtype=np.uint16),
    }
    pooled = [each.pooled for each in encoded if each.pooled is not None]
    if pooled:
        arrays[POOLED_FIELD] = np.stack(pooled)
    if synthetic is not None:
        arrays[SYNTHETIC_FIELD] = np.array(synthetic, dtype=np.uint8)
    return arrays, {TEXT_FIELD: "\n".join(" ".join(text.split()) for text in texts)}


@dataclass(frozen=True)
class SyntheticShare:
    """How often the caption of a sample is taken from the second set, where it has captions of both.

    Of the first samples of the stream always; over the next `falling` ones that falls evenly to `share`.
    """

    share: float
    first: int = 0
    falling: int = 0

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Return the shares at positions (B,) of the stream, float64 (B,) in [0, 1]."""
        return np.interp(positions, (self.first - 1, self.first + self.falling), (1.0, self.share))


def drawn_captions(
    take: Take, rows_field: str, positions: np.ndarray, seed: int, share: SyntheticShare | None, pooled: bool
) -> list[Encoded]:
    """Return one caption of each sample of a batch: which one follows from the seed and the stream's positions (B,).

    share: of synthetic captions; None where the data have no second set. pooled: whether captions have a vector of the
    whole.
    """
    lengths, rows = take(LENGTHS_FIELD), take(rows_field)
    counts = [0] * len(lengths) if share is None else [int(each) for each in take(SYNTHETIC_FIELD)]
    vectors = take(POOLED_FIELD) if pooled else None
    draws = seeds.uniform(seed, "caption", positions, (2,)).numpy()
    shares = np.zeros(len(positions)) if share is None else share.at(positions)
    chosen = []
    for place, (each, synthetic) in enumerate(zip(lengths, counts, strict=True)):
        # One set or the other, where the image has both; then one of the set's captions.
        own = len(each) - synthetic
        second = not own or (synthetic > 0 and draws[place, 0] < shares[place])
        first, many = (own, synthetic) if second else (0, own)
        number = first + int(draws[place, 1] * many)
        start = int(each[:number].sum(dtype=np.int64))
        part = rows[place][start : start + int(each[number])]
        chosen.append(Encoded(part, None if vectors is None else vectors[place][number]))
    return chosen
