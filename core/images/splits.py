"""A training and a validation part of images that come as one, divided by what is in the files."""

import hashlib
from collections.abc import Sequence

import numpy as np


def split_by_content(digests: Sequence[bytes], labels: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Split samples by their content hashes (32 bytes each); return the indices of training and of validation, sorted.

    Equal contents stay on one side; the side depends on the content alone, not on names, order or the other samples,
    but for two corrections in small sets: every class keeps a training sample, and validation is not empty (unless no
    sample can be spared).
    """
    assert 0 < fraction < 1 and len(digests) == len(labels), f"{fraction} {len(digests)} {len(labels)}"
    # Hashed once more, so that who chooses files by their sha256 does not choose the split.
    ranks = {digest: hashlib.sha256(b"validation" + digest).digest() for digest in set(digests)}
    threshold = int(fraction * 2**64)
    held_out = {digest for digest, rank in ranks.items() if int.from_bytes(rank[:8], "big") < threshold}

    classes: dict[int, set[bytes]] = {}
    for digest, label in zip(digests, labels.tolist(), strict=True):
        classes.setdefault(label, set()).add(digest)
    for members in (classes[label] for label in sorted(classes)):
        if members <= held_out:
            held_out.remove(max(members, key=ranks.__getitem__))
    if not held_out:
        needed = {next(iter(members)) for members in classes.values() if len(members) == 1}
        held_out = set(sorted(ranks.keys() - needed, key=ranks.__getitem__)[:1])

    is_held_out = np.array([digest in held_out for digest in digests], dtype=bool)
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
