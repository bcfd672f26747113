"""In which order samples are seen, a permutation per epoch, and which of them mirrored: functions of the seed alone.

Training reads one endless stream: position k is sample `order(seed, k // n)[k % n]`. Batches are slices of the
stream, so that neither batch size, nor workers, nor interruptions change which sample comes when.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from .. import seeds

BalanceName = Literal["images", "sqrt", "classes"]
_WEIGHTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "images": lambda counts: counts.astype(np.float64),
    "sqrt": np.sqrt,
    "classes": np.ones_like,
}


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """Return the permutation of `num_samples` for one epoch, int64, read-only."""
    order = seeds.generator(seed, "data order", epoch).permutation(num_samples)
    order.flags.writeable = False
    return order


def spread(num_samples: int, count: int, seed: int = 0) -> np.ndarray:
    """Choose `count` samples, or all if there are fewer, in a random but fixed order, int64.

    For looking at a part of a set: the first ones by name would all be of the first class.
    """
    return seeds.generator(seed, "spread").permutation(num_samples)[:count]


def stream(seed: int, start: int, stop: int, num_samples: int) -> np.ndarray:
    """Return the samples at stream positions start … stop-1, int64 (stop - start,)."""
    assert 0 <= start <= stop, f"positions {start} to {stop}"
    assert num_samples > 0, "no samples to order"
    pieces = [np.empty(0, dtype=np.int64)]
    while start < stop:
        epoch, offset = divmod(start, num_samples)
        take = min(stop - start, num_samples - offset)
        pieces.append(epoch_order(seed, epoch, num_samples)[offset : offset + take])
        start += take
    return np.concatenate(pieces)


class BalancedStream:
    """The stream in which classes are seen in other shares than they have images, each image of a class equally often.

    labels: of each sample, int64 (N,). balance: the weight of a class: its number of images, the root of that, or one
    for all. repeats: what that is multiplied by, by label. An epoch has N positions, of which each class has its share;
    it goes on through its own images, a permutation after the other, where the epoch before ended.
    """

    def __init__(self, labels: np.ndarray, balance: BalanceName, repeats: Mapping[int, float] | None = None) -> None:
        self.classes, inverse = np.unique(labels, return_inverse=True)
        self._members = [np.flatnonzero(inverse == row) for row in range(len(self.classes))]
        self.counts = np.array([len(members) for members in self._members])
        weights = np.asarray(_WEIGHTS[balance](self.counts), dtype=np.float64)
        weights *= [(repeats or {}).get(label, 1.0) for label in self.classes.tolist()]
        self.shares = weights / weights.sum()
        self._known: tuple[int, int, np.ndarray] | None = None  # seed, epoch, and its samples

    @cached_property
    def _bounds(self) -> np.ndarray:
        bounds = np.cumsum(self.shares)
        bounds[-1] = 1.0  # whatever rounding made of it
        return bounds

    def seen(self, epoch: int) -> np.ndarray:
        """Return how many positions each class has had before an epoch, int64 (K,): they are never off by more than
        one from its share.
        """
        ends = np.floor(self._bounds * (epoch * int(self.counts.sum()))).astype(np.int64)
        return np.diff(ends, prepend=0)

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """Return the samples of an epoch, int64 (N,)."""
        before, after = self.seen(epoch), self.seen(epoch + 1)
        parts = []
        for row, members in enumerate(self._members):
            purpose = f"order of class {self.classes[row]}"
            passes = range(before[row] // len(members), -(-after[row] // len(members)))
            drawn = [members[seeds.generator(seed, purpose, number).permutation(len(members))] for number in passes]
            first = passes.start * len(members)
            parts += [np.concatenate(drawn)[before[row] - first : after[row] - first]] if drawn else []
        samples = np.concatenate(parts)
        return samples[seeds.generator(seed, "data order", epoch).permutation(len(samples))]

    def __call__(self, seed: int, start: int, stop: int) -> np.ndarray:
        """Return the samples at stream positions start … stop-1, as `stream` does."""
        size, pieces = int(self.counts.sum()), [np.empty(0, dtype=np.int64)]
        while start < stop:
            epoch, offset = divmod(start, size)
            take = min(stop - start, size - offset)
            pieces.append(self._latest(seed, epoch)[offset : offset + take])
            start += take
        return np.concatenate(pieces)

    def _latest(self, seed: int, epoch: int) -> np.ndarray:
        if self._known is None or self._known[:2] != (seed, epoch):
            self._known = seed, epoch, self.epoch(seed, epoch)
        return self._known[2]

    def described(self, names: Sequence[str]) -> str:
        """Return in words what an epoch sees of each class. names: of all classes, or none."""
        size = int(self.counts.sum())
        shown = []
        for label, count, share in list(zip(self.classes.tolist(), self.counts.tolist(), self.shares, strict=True))[
            :10
        ]:
            name = names[label] if label < len(names) else f"class {label}"
            shown.append(f"{name} {share * size:,.0f} (of {count:,}, each {share * size / count:.3g} times)")
        more = f", and {len(self.classes) - len(shown)} more" if len(self.classes) > len(shown) else ""
        return f"of {size:,} images an epoch sees {', '.join(shown)}{more}"


def mirrored(positions: np.ndarray, seed: int) -> np.ndarray:
    """Say which of the positions (B,) of a stream see the mirrored image: half of them, bool (B,)."""
    return seeds.uniform(seed, "flip", positions).numpy() < 0.5


def pieces(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut rows (N,) into arrays of `size`, the last one of what is left."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]
