"""Pairs of near neighbours among many: of 64-bit hashes, and of feature vectors. In blocks, so that memory is bounded.

N and M count rows, P the pairs found, D the width of a vector.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import torch

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # first and second rows, int64 (P,), and their distances (P,)

MAX_RADIUS = 15
_BANDS, _WIDTH = 4, 16
_BAND_MASK = np.uint64((1 << _WIDTH) - 1)
_BLOCK = 1 << 19  # pairs looked at in one go
_FAVOUR = 30  # a pair that a table leads to takes as long as so many looked at one after the other (measured)
_VECTORS = 4096  # vectors multiplied with as many others in one go


def hamming_pairs(first: np.ndarray, second: np.ndarray | None, radius: int) -> Iterator[Pairs]:
    """Yield the pairs of hashes, uint64 (N,) and (M,), that differ in at most `radius` bits, each pair once.

    Without `second` the pairs are among `first`, i < j. By pigeonhole: of four bands of 16 bits one differs in at most
    radius / 4 bits, and there are few such values, which a table of the hashes by that band leads to (multi-index
    hashing, Norouzi et al. 2012). Where the hashes crowd so much that all pairs are less work, all are looked at.
    """
    assert 0 <= radius <= MAX_RADIUS and first.dtype == np.uint64, f"{radius} {first.dtype}"
    among = second is None
    others = first if second is None else second
    flips = _flips(radius // _BANDS)
    tables = [(_Table(first, band), _Table(others, band)) for band in range(_BANDS)]
    work = 0
    for ours, theirs in tables:
        for flip in flips:
            work += int(_counts(ours, theirs, flip).sum())
            if work * _FAVOUR > len(first) * len(others):
                yield from _among_all(first, others, radius, among)
                return
    for ours, theirs in tables:
        for flip in flips:
            for at, to in _candidates(ours, theirs, flip, among):
                difference = ours.hashes[at] ^ theirs.hashes[to]
                distance = popcount(difference)
                near = distance <= radius
                for band in range(ours.band):  # An earlier table led to these.
                    near &= popcount(_band(difference, band)) > radius // _BANDS
                if near.any():
                    i, j = ours.rows[at[near]], theirs.rows[to[near]]
                    yield (np.minimum(i, j), np.maximum(i, j), distance[near]) if among else (i, j, distance[near])


def cosine_pairs(features: np.ndarray, radius: float, device: torch.device | str = "cpu") -> Iterator[Pairs]:
    """Yield the pairs i < j of feature vectors, float (N, D), whose cosine distance, 1 - cos, is at most `radius`.

    Products are taken in float32, in blocks; of the features one block at a time is copied.
    """

    def block(start: int) -> torch.Tensor:
        rows = torch.from_numpy(np.asarray(features[start : start + _VECTORS], dtype=np.float32)).to(device)
        return torch.nn.functional.normalize(rows, dim=1)

    starts = range(0, len(features), _VECTORS)
    for top in starts:
        rows = block(top)
        for left in starts[top // _VECTORS :]:
            cosines = rows @ (rows if left == top else block(left)).T
            near = (cosines >= 1 - radius).cpu()
            if left == top:
                near = near.triu(1)
            i, j = near.nonzero(as_tuple=True)
            if len(i):
                distances = (1 - cosines.cpu()[i, j]).clamp(min=0)
                yield i.numpy() + top, j.numpy() + left, distances.numpy()


def popcount(values: np.ndarray) -> np.ndarray:
    """Count the ones in each number, uint64, of any shape."""
    counts: np.ndarray = np.bitwise_count(values) if hasattr(np, "bitwise_count") else _popcount_by_sums(values)
    return counts


def _popcount_by_sums(values: np.ndarray) -> np.ndarray:
    """As `popcount`, for numpy before 2.0: sums of 2, 4, then 8 bits side by side, and of the bytes by a product."""
    pairs, fours, bytes_, ones = (np.uint64(m * 0x0101010101010101) for m in (0x55, 0x33, 0x0F, 0x01))
    values = values - ((values >> np.uint64(1)) & pairs)
    values = (values & fours) + ((values >> np.uint64(2)) & fours)
    values = (values + (values >> np.uint64(4))) & bytes_
    return ((values * ones) >> np.uint64(56)).astype(np.uint8)


class _Table:
    """Hashes in the order of one band, the rows they came from, and where each value of the band begins."""

    def __init__(self, hashes: np.ndarray, band: int) -> None:
        self.band = band
        values = _band(hashes, band).astype(np.int64)
        self.rows = np.argsort(values, kind="stable")
        self.hashes, self.values = hashes[self.rows], values[self.rows]
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(values, minlength=1 << _WIDTH))])


def _counts(ours: _Table, theirs: _Table, flip: int) -> np.ndarray:
    """Return how many of theirs each of ours leads to with these bits of its band flipped, int64 (N,)."""
    values = ours.values ^ flip
    counts: np.ndarray = theirs.starts[values + 1] - theirs.starts[values]
    return counts


def _candidates(ours: _Table, theirs: _Table, flip: int, among: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the places in both tables that a flip leads from and to, in blocks; `among` one set each pair once."""
    counts = _counts(ours, theirs, flip)
    starts = theirs.starts[ours.values ^ flip]
    if among and flip:
        counts[ours.values & (1 << (flip.bit_length() - 1)) != 0] = 0
    elif among:  # From each to those behind it with the same value.
        behind = np.arange(1, len(counts) + 1)
        counts, starts = starts + counts - behind, behind
    ends = np.cumsum(counts)
    top = 0
    while top < len(counts):
        done = ends[top] - counts[top]
        bottom = max(top + 1, int(np.searchsorted(ends, done + _BLOCK, side="right")))
        some = counts[top:bottom]
        at = np.repeat(np.arange(top, bottom), some)
        within = np.arange(len(at)) - np.repeat(ends[top:bottom] - some - done, some)
        if len(at):
            yield at, starts[at] + within
        top = bottom


def _band(hashes: np.ndarray, band: int) -> np.ndarray:
    return (hashes >> np.uint64(band * _WIDTH)) & _BAND_MASK


def _flips(radius: int) -> list[int]:
    """List the values of a band with at most `radius` ones."""
    chosen = (bits for count in range(radius + 1) for bits in combinations(range(_WIDTH), count))
    return [sum(1 << bit for bit in bits) for bits in chosen]


def _among_all(first: np.ndarray, others: np.ndarray, radius: int, below: bool) -> Iterator[Pairs]:
    """Look at every pair; with `below` at those with i < j."""
    height = max(1, _BLOCK // max(1, len(others)))
    for top in range(0, len(first), height):
        left = top if below else 0
        distances = popcount(first[top : top + height, None] ^ others[None, left:])
        i, j = np.nonzero(distances <= radius)
        distance, i, j = distances[i, j], i + top, j + left
        chosen = i < j if below else slice(None)
        yield i[chosen], j[chosen], distance[chosen]
