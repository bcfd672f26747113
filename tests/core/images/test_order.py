"""The stream of samples is a function of seed and position: however it is cut, it is the same stream."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm.core.images.order import epoch_order, spread, stream


def test_every_epoch_is_a_permutation_and_no_two_are_alike() -> None:
    orders = [epoch_order(0, epoch, 50) for epoch in range(5)]
    assert all(np.array_equal(np.sort(order), np.arange(50)) for order in orders)
    assert len({order.tobytes() for order in orders}) == 5
    assert not np.array_equal(epoch_order(1, 0, 50), orders[0])


@given(
    num_samples=st.integers(1, 30),
    start=st.integers(0, 100),
    lengths=st.lists(st.integers(0, 40), max_size=8),
)
def test_batches_of_any_sizes_join_to_the_one_stream(num_samples: int, start: int, lengths: list[int]) -> None:
    bounds = start + np.cumsum([0, *lengths])
    pieces = [stream(9, int(a), int(b), num_samples) for a, b in pairwise(bounds)]
    joined = np.concatenate([np.empty(0, np.int64), *pieces])
    assert joined.dtype == np.int64
    assert np.array_equal(joined, stream(9, start, int(bounds[-1]), num_samples))


def test_position_k_is_sample_k_of_its_epoch() -> None:
    positions = range(40)
    expected = [epoch_order(2, k // 7, 7)[k % 7] for k in positions]
    assert stream(2, 0, 40, 7).tolist() == expected
    assert [stream(2, k, k + 1, 7).item() for k in reversed(positions)] == expected[::-1]


def test_resuming_at_every_step_of_an_epoch_gives_the_rest_of_the_stream() -> None:
    whole = stream(0, 0, 64, 20)
    for start in range(0, 64, 4):
        rest = [stream(0, at, at + 4, 20) for at in range(start, 64, 4)]
        assert np.array_equal(np.concatenate(rest), whole[start:])


def test_the_order_cannot_be_changed_by_whoever_reads_it() -> None:
    order = epoch_order(0, 0, 10)
    with pytest.raises(ValueError):
        order[0] = 3
    taken = stream(0, 0, 10, 10)
    taken[:] = 0
    assert np.array_equal(np.sort(epoch_order(0, 0, 10)), np.arange(10))


def test_the_order_is_the_one_of_every_earlier_version() -> None:
    """A golden value: a change of it would break the exact resume of every run begun before."""
    assert stream(0, 0, 12, 8).tolist() == [0, 4, 2, 1, 6, 7, 3, 5, 5, 1, 7, 0]


def test_a_spread_is_a_fixed_choice_without_repeats_from_all_of_the_set() -> None:
    chosen = spread(1000, 100)
    assert np.array_equal(chosen, spread(1000, 100))
    assert len(np.unique(chosen)) == 100
    assert np.array_equal(spread(1000, 200)[:100], chosen)
    assert not np.array_equal(spread(1000, 100, seed=1), chosen)
    assert len(np.unique(chosen // 100)) == 10  # of ten classes that lie one after the other, all are there


def test_a_spread_over_few_samples_takes_all() -> None:
    assert np.array_equal(np.sort(spread(5, 100)), np.arange(5))
