"""The embedded default: ids of CLIP's vocabulary, for a text network that is trained together with the denoiser."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from . import bpe
from .captions import IDS_FIELD, Encoded

OWN = "own"
_MOST = 512


class OwnEncoder:
    """CLIP's byte-pair encoding as a `TextEncoder`: ids, without files of others."""

    rows_field = IDS_FIELD
    most = _MOST
    fixed = None

    @property
    def files(self) -> dict[str, str]:
        return {}

    def describe(self) -> dict[str, Any]:
        return {"name": OWN, "sha256": bpe.merges_sha256()}

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(bpe.encode(text)) for text in texts]

    def encode(self, texts: Sequence[str], length: int) -> list[Encoded]:
        return [_cut(bpe.encode(text), length) for text in texts]


def _cut(ids: list[int], length: int) -> Encoded:
    kept = ids if len(ids) <= length else [*ids[: length - 1], bpe.END]
    return Encoded(np.array(kept, dtype=np.uint16), cut=len(ids) > length)


def seen(encoded: Iterable[Encoded]) -> tuple[int, ...]:
    """Return the ids that texts have, rising."""
    found = np.zeros(bpe.NUM_IDS, dtype=bool)
    for each in encoded:
        found[each.rows] = True
    found[[bpe.START, bpe.END]] = True  # of the null
    return tuple(np.flatnonzero(found).tolist())
