"""Which images are copies of others: the groups that links between them make.

An image is first what its bytes and its pixels are, by sha256; of those with equal pixels one stands for all in the
search for near copies. A group is what hangs together by links; in it an image is left out only if it is linked itself
to one that is kept, so that the two ends of a chain, which nobody compared, are both kept.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .near import SEARCHED, Kind


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


def grouped(fingerprints: np.ndarray, stands: np.ndarray, links: np.ndarray, places: np.ndarray) -> list[Group]:
    """Gather images into groups, the largest first.

    fingerprints: FINGERPRINT (N,). stands: which image of equal pixels stands for each, int64 (N,). links: LINK (L,).
    places: the order in which images are rather kept, int64 (N,).
    """
    left_out = _left_out(links, places)
    labels = components(len(stands), links["first"], links["second"])[stands]
    members: dict[int, list[int]] = {}
    for row in np.flatnonzero((np.bincount(labels)[labels] > 1) & fingerprints["known"]).tolist():
        members.setdefault(int(labels[row]), []).append(row)

    num_links = np.bincount(labels[links["first"]], minlength=len(stands))
    groups = []
    for label, rows in members.items():
        copies = [_copy(row, fingerprints, int(stands[row]), left_out) for row in rows]
        copies.sort(key=lambda copy: (copy.kind != "kept", places[copy.row]))
        distinct = len({int(stands[row]) for row in rows})
        groups.append(Group(tuple(copies), chain=int(num_links[label]) < distinct * (distinct - 1) // 2))
    return sorted(groups, key=lambda group: (-len(group.copies), min(group.rows)))


def _copy(row: int, fingerprints: np.ndarray, stand: int, left_out: dict[int, np.void]) -> Copy:
    if (link := left_out.get(stand)) is not None:
        kind = SEARCHED[int(link["kind"])]
        return Copy(row, kind, float(link["distance"]), float(link["likeness"]), int(link["second"]))
    if row == stand:
        return Copy(row, "kept")
    same = fingerprints["content"][row].tobytes() == fingerprints["content"][stand].tobytes()
    return Copy(row, "bytes" if same else "pixels", of=stand)


def _left_out(links: np.ndarray, places: np.ndarray) -> dict[int, np.void]:
    """Choose what to leave out, from the image rather kept to the least: whatever is linked to one that is kept.

    Returns by row the link, LINK, from it to the kept image that it is a copy of.
    """
    back = links.copy()
    back["first"], back["second"] = links["second"], links["first"]
    both = np.concatenate([links, back])
    both = both[np.lexsort((places[both["second"]], both["distance"], both["kind"], places[both["first"]]))]
    _, starts = np.unique(places[both["first"]], return_index=True)
    out = np.zeros(len(places), dtype=bool)
    for start, stop in pairwise([*starts, len(both)]):
        if not out[both["first"][start]]:
            out[both["second"][start:stop]] = True
    to_kept = both[out[both["first"]] & ~out[both["second"]]]
    rows, nearest = np.unique(to_kept["first"], return_index=True)
    return dict(zip(rows.tolist(), to_kept[nearest], strict=True))


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
