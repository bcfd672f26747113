"""The balanced stream: classes in their shares, images of a class equally often, a function of seed and position."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm.core.images.order import BalancedStream

LABELS = np.repeat([0, 2, 5], [60, 25, 15])
_ROOTS = np.sqrt([60, 25, 15])
SHARES = {"images": [0.6, 0.25, 0.15], "classes": [1 / 3] * 3, "sqrt": _ROOTS / _ROOTS.sum()}


@pytest.mark.parametrize("balance", ["images", "sqrt", "classes"])
def test_each_class_has_its_share_of_any_epochs_and_each_of_its_images_as_many_as_another(balance: str) -> None:
    stream = BalancedStream(LABELS, balance)  # type: ignore[arg-type]
    assert stream.shares == pytest.approx(SHARES[balance])
    for epochs in (1, 2, 7):
        samples = stream(3, 0, epochs * len(LABELS))
        for label, share in zip((0, 2, 5), SHARES[balance], strict=True):
            of_class = samples[LABELS[samples] == label]
            assert abs(len(of_class) - share * len(samples)) < 2
            times = np.bincount(of_class, minlength=len(LABELS))[label == LABELS]
            assert times.max() - times.min() <= 1


@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    balance=st.sampled_from(["images", "sqrt", "classes"]),
    start=st.integers(0, 60),
    lengths=st.lists(st.integers(0, 40), max_size=5),
    seed=st.integers(0, 5),
)
def test_batches_of_any_sizes_join_to_the_one_stream(
    counts: list[int], balance: str, start: int, lengths: list[int], seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    stream = BalancedStream(labels, balance)  # type: ignore[arg-type]
    bounds = start + np.cumsum([0, *lengths])
    joined = np.concatenate([stream(seed, int(a), int(b)) for a, b in pairwise(bounds)] or [np.empty(0, np.int64)])
    assert np.array_equal(joined, BalancedStream(labels, balance)(seed, start, int(bounds[-1])))  # type: ignore[arg-type]
    assert np.all(np.diff([stream.seen(epoch) for epoch in range(6)], axis=0) >= 0)


def test_seeds_and_epochs_have_other_orders() -> None:
    stream = BalancedStream(LABELS, "classes")
    first, second, other = stream(0, 0, 100), stream(0, 100, 200), stream(1, 0, 100)
    assert not np.array_equal(first, second) and not np.array_equal(first, other)


def test_what_an_epoch_sees_is_said_by_class() -> None:
    said = BalancedStream(LABELS, "classes").described(["cat", "", "dog", "", "", "rat"])
    assert said == (
        "of 100 images an epoch sees cat 33 (of 60, each 0.556 times), dog 33 (of 25, each 1.33 times), rat 33 (of 15,"
        " each 2.22 times)"
    )
    many = BalancedStream(np.arange(12), "classes").described(())
    assert "class 9" in many and many.endswith("and 2 more")
