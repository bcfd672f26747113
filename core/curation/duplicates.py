"""Which images are copies of others: links between them, and the groups that links make.

An image is first what its bytes and its pixels are, by sha256; of those with equal pixels one stands for all in the
search for near copies. A group is what hangs together by links; in it an image is left out only if it is linked itself
to one that is kept, so that the two ends of a chain, which nobody compared, are both kept.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import DataError
from . import near, perceptual
from .fingerprints import Fingerprints

Kind = Literal["kept", "bytes", "pixels", "hash", "mirrored", "features"]
SEARCHED: tuple[Kind, ...] = ("hash", "mirrored", "features")  # surest first
MAX_LINKS = 20_000_000
_BLOCK = 1 << 12  # pairs whose thumbnails are compared at once


@dataclass(frozen=True)
class Links:
    """Pairs of images that are near copies: rows first < second, kind (an index into SEARCHED), distance, likeness.

    distance: bits of the hash, or cosine distance of features; likeness: of their thumbnails.
    """

    first: np.ndarray
    second: np.ndarray
    kind: np.ndarray
    distance: np.ndarray
    likeness: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


def near_links(fingerprints: Fingerprints, rows: np.ndarray, bits: int, likeness: float, mirrored: bool) -> Links:
    """Link images, of `rows`, whose hashes differ in at most `bits` and whose thumbnails are at least so alike."""
    found = [
        _confirmed(fingerprints, rows, near.hamming_pairs(fingerprints.hashes[rows], None, bits), likeness, "hash")
    ]
    if mirrored:
        pairs = near.hamming_pairs(fingerprints.hashes[rows], fingerprints.flipped[rows], bits)
        found.append(_confirmed(fingerprints, rows, pairs, likeness, "mirrored"))
    return merged(found)


def feature_links(fingerprints: Fingerprints, rows: np.ndarray, pairs: Iterable[near.Pairs]) -> Links:
    """Link images, of `rows`, by pairs of places in it that are near in feature space."""
    return _confirmed(fingerprints, rows, pairs, -1.0, "features")


def merged(links: Iterable[Links]) -> Links:
    """Join links; where a pair is linked twice, the surest kind and least distance counts."""
    first, second, kind, distance, likeness = (
        np.concatenate(column) for column in zip(*(_columns(each) for each in links), strict=True)
    )
    order = np.lexsort((distance, kind, second, first))
    first, second = first[order], second[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    kept = order[new]
    return Links(first[new], second[new], kind[kept], distance[kept], likeness[kept])


def _columns(links: Links) -> tuple[np.ndarray, ...]:
    return links.first, links.second, links.kind, links.distance, links.likeness


def _confirmed(
    fingerprints: Fingerprints, rows: np.ndarray, pairs: Iterable[near.Pairs], least: float, kind: Kind
) -> Links:
    """Keep the pairs whose thumbnails are alike. Raises DataError for more pairs than can be of use."""
    found: list[tuple[np.ndarray, ...]] = []
    count = 0
    for i, j, distance in _blocks(pairs):
        first, second = rows[np.minimum(i, j)], rows[np.maximum(i, j)]
        theirs = fingerprints.thumbnails[second]
        like = perceptual.likeness(
            fingerprints.thumbnails[first], perceptual.mirrored(theirs) if kind == "mirrored" else theirs
        )
        chosen = (like >= least) & (i != j)
        found.append((first[chosen], second[chosen], distance[chosen].astype(np.float32), like[chosen]))
        count += int(chosen.sum())
        if count > MAX_LINKS:
            message = f"more than {MAX_LINKS:,} pairs of images count as near copies"
            raise DataError(message, "be stricter: a smaller `bits` or `feature_distance`, or a greater `likeness`")
    empty = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), *(np.empty(0, dtype=np.float32) for _ in "dl")
    first, second, distance, like = (np.concatenate(column) for column in zip(empty, *found, strict=True))
    return Links(first, second, np.full(len(first), SEARCHED.index(kind), dtype=np.int8), distance, like)


def _blocks(pairs: Iterable[near.Pairs]) -> Iterator[near.Pairs]:
    for i, j, distance in pairs:
        for start in range(0, len(i), _BLOCK):
            some = slice(start, start + _BLOCK)
            yield i[some], j[some], distance[some]


@dataclass(frozen=True)
class Copy:
    """An image in a group: how it is linked to the image it is a copy of; `of` is None for one that is kept."""

    row: int
    kind: Kind
    distance: float = 0.0
    likeness: float = 1.0
    of: int | None = None


@dataclass(frozen=True)
class Group:
    """Images that hang together by being copies, those to keep first.

    chain: whether two of them are in the group only by way of others.
    """

    copies: tuple[Copy, ...]
    chain: bool

    @property
    def rows(self) -> list[int]:
        return [copy.row for copy in self.copies]

    @property
    def doubt(self) -> float:
        """How unlike its least alike copies are, 0 for exact ones."""
        return max(1 - copy.likeness for copy in self.copies)


def grouped(fingerprints: Fingerprints, stands: np.ndarray, links: Links, places: np.ndarray) -> list[Group]:
    """Gather images into groups, the largest first. `places`: the order in which images are rather kept."""
    of, by = _left_out(links, places)
    labels = components(len(stands), links.first, links.second)[stands]
    sizes = np.bincount(labels, minlength=len(stands))
    members: dict[int, list[int]] = {}
    for row in np.flatnonzero((sizes[labels] > 1) & fingerprints.known).tolist():
        members.setdefault(int(labels[row]), []).append(row)

    num_links = np.bincount(labels[links.first], minlength=len(stands))
    groups = []
    for label, rows in members.items():
        copies = [_copy(row, fingerprints, stands, links, of, by) for row in rows]
        copies.sort(key=lambda copy: (copy.kind != "kept", places[copy.row]))
        distinct = len({int(stands[row]) for row in rows})
        groups.append(Group(tuple(copies), chain=int(num_links[label]) < distinct * (distinct - 1) // 2))
    return sorted(groups, key=lambda group: (-len(group.copies), min(group.rows)))


def _copy(
    row: int, fingerprints: Fingerprints, stands: np.ndarray, links: Links, of: dict[int, int], by: dict[int, int]
) -> Copy:
    stand = int(stands[row])
    if stand in of:
        link = by[stand]
        kind = SEARCHED[int(links.kind[link])]
        return Copy(row, kind, float(links.distance[link]), float(links.likeness[link]), of[stand])
    if row == stand:
        return Copy(row, "kept")
    same = bool((fingerprints.content[row] == fingerprints.content[stand]).all())
    return Copy(row, "bytes" if same else "pixels", of=stand)


def _left_out(links: Links, places: np.ndarray) -> tuple[dict[int, int], dict[int, int]]:
    """Choose what to leave out, from the image rather kept to the least: whatever is linked to one that is kept.

    Returns by row which kept image each is a copy of, and by which link.
    """
    ends = np.concatenate([links.first, links.second])
    others = np.concatenate([links.second, links.first])
    numbers = np.tile(np.arange(len(links)), 2)
    order = np.lexsort((places[others], links.distance[numbers], links.kind[numbers], ends))
    ends, others, numbers = ends[order], others[order], numbers[order]
    rows, starts = np.unique(ends, return_index=True)
    stops = np.append(starts[1:], len(ends))
    out: set[int] = set()
    kept: set[int] = set()
    for at in np.argsort(places[rows], kind="stable").tolist():
        row = int(rows[at])
        if row not in out:
            kept.add(row)
            out.update(others[starts[at] : stops[at]].tolist())
    of, by = {}, {}
    for at, row in enumerate(rows.tolist()):
        if row not in kept:
            linked = range(int(starts[at]), int(stops[at]))
            nearest = next(place for place in linked if int(others[place]) in kept)
            of[row], by[row] = int(others[nearest]), int(numbers[nearest])
    return of, by


def components(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return for each of `count` rows the least row that it hangs together with by the pairs, int64 (count,)."""
    labels = np.arange(count)
    while True:
        ours, theirs = labels[first], labels[second]
        if (ours == theirs).all():
            return labels
        np.minimum.at(labels, np.maximum(ours, theirs), np.minimum(ours, theirs))
        while (labels[labels] != labels).any():
            labels = labels[labels]
