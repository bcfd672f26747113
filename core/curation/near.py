"""Pairs of near copies: near in the bits of their hashes or in feature space, and confirmed by their thumbnails.

Every image is compared with every other one, in blocks, so that memory is bounded.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import torch

from ..errors import DataError
from .fingerprints import detail_likeness, likeness, mirrored

Kind = Literal["kept", "bytes", "pixels", "hash", "mirrored", "features"]
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # first and second rows, int64 (P,), and their distances (P,)
SEARCHED: tuple[Kind, ...] = ("hash", "mirrored", "features")  # surest first
MAX_LINKS = 20_000_000
# A pair of images, first < second. kind: an index into SEARCHED; distance: bits of the hash, or cosine distance of
# features; likeness: of their thumbnails.
LINK = np.dtype(
    [("first", np.int64), ("second", np.int64), ("kind", np.int8), ("distance", np.float32), ("likeness", np.float32)]
)
_HASHES = 1 << 19  # pairs of hashes compared at once
_VECTORS = 4096  # vectors multiplied with as many others at once
_THUMBNAILS = 1 << 12  # pairs whose thumbnails are compared at once
_ONES = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)


def hamming_pairs(first: np.ndarray, second: np.ndarray, radius: int) -> Iterator[Pairs]:
    """Yield the pairs i < j of hashes `first[i]` and `second[j]`, uint64 (N,), that differ in at most `radius` bits."""
    height = max(1, _HASHES // max(1, len(second)))
    for top in range(0, len(first), height):
        distances = popcount(first[top : top + height, None] ^ second[None, top:])
        i, j = np.nonzero(distances <= radius)
        i, j, distance = i[i < j], j[i < j], distances[i, j][i < j]
        yield i + top, j + top, distance


def cosine_pairs(features: np.ndarray, radius: float, device: torch.device | str = "cpu") -> Iterator[Pairs]:
    """Yield the pairs i < j of feature vectors, float (N, D), whose cosine distance, 1 - cos, is at most `radius`.

    Products are taken in float32; of the features one block at a time is copied.
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
            i, j = (near.triu(1) if left == top else near).nonzero(as_tuple=True)
            distances = (1 - cosines.cpu()[i, j]).clamp(min=0)
            yield i.numpy() + top, j.numpy() + left, distances.numpy()


def popcount(values: np.ndarray) -> np.ndarray:
    """Count the ones in each number, uint64 (N, M): uint8 (N, M)."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.asarray(np.bitwise_count(values))
    return _ONES[values.view(np.uint8).reshape(*values.shape, 8)].sum(-1, dtype=np.uint8)


def near_links(
    fingerprints: np.ndarray, rows: np.ndarray, bits: int, least: float, flips: bool, detail: float = -1.0
) -> np.ndarray:
    """Link images, of `rows`, whose hashes differ in at most `bits` and whose thumbnails are at least so alike.

    detail: as their fine detail has to be. flips: whether to look for mirror images too. Returns LINK (L,).
    """
    hashes, flipped = fingerprints["hash"][rows], fingerprints["flipped"][rows]
    searches: list[tuple[Kind, np.ndarray, np.ndarray]] = [("hash", hashes, hashes)]
    searches += [("mirrored", hashes, flipped), ("mirrored", flipped, hashes)] if flips else []
    return merged(
        confirmed(fingerprints, rows, hamming_pairs(a, b, bits), kind, least, detail) for kind, a, b in searches
    )


def confirmed(
    fingerprints: np.ndarray,
    rows: np.ndarray,
    pairs: Iterable[Pairs],
    kind: Kind,
    least: float = -1.0,
    detail: float = -1.0,
) -> np.ndarray:
    """Link the images, of `rows`, of those pairs of places in it whose thumbnails are alike: LINK (L,).

    least, detail: likeness that they need, as a whole and in fine detail.

    Raises DataError for more pairs than can be of use.
    """
    found = [np.empty(0, dtype=LINK)]
    count = 0
    for i, j, distance in pairs:
        for start in range(0, len(i), _THUMBNAILS):
            some = slice(start, start + _THUMBNAILS)
            links = np.empty(len(i[some]), dtype=LINK)
            links["first"], links["second"], links["distance"] = rows[i[some]], rows[j[some]], distance[some]
            links["kind"] = SEARCHED.index(kind)
            ours, theirs = (fingerprints["thumbnail"][links[end]] for end in ("first", "second"))
            theirs = mirrored(theirs) if kind == "mirrored" else theirs
            links["likeness"] = likeness(ours, theirs)
            chosen = links["likeness"] >= least
            if detail > -1:
                chosen[chosen] = detail_likeness(ours[chosen], theirs[chosen]) >= detail
            found.append(links[chosen])
            count += len(found[-1])
            if count > MAX_LINKS:
                message = f"more than {MAX_LINKS:,} pairs of images count as near copies"
                raise DataError(message, "be stricter: a smaller `bits` or `feature_distance`, or a greater `likeness`")
    return np.concatenate(found)


def merged(links: Iterable[np.ndarray]) -> np.ndarray:
    """Join links, LINK (L,); where a pair is linked twice, the surest kind and least distance counts."""
    joined = np.concatenate([*links])
    joined = joined[np.lexsort([joined[key] for key in ("distance", "kind", "second", "first")])]
    _, firsts = np.unique(joined[["first", "second"]], return_index=True)
    return joined[firsts]
