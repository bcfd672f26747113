"""Conditions are joined, chosen from and split by samples, whatever fields they have."""

import pytest
import torch

from ldm.core.diffusion import conditions
from ldm.core.diffusion.conditions import Cond


def cond(n: int, start: int = 0) -> Cond:
    labels = torch.arange(start, start + n)
    return {"labels": labels, "tokens": labels.view(-1, 1, 1) * torch.ones(n, 2, 3), "guidance": labels / 2}


def equal(a: Cond, b: Cond) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_two_joined_are_the_samples_of_both() -> None:
    both = conditions.cat(cond(3), cond(3, 3))
    assert equal(both, cond(6))
    assert equal(conditions.index(both, torch.tensor([4])), cond(1, 4))
    assert equal(conditions.index(both, slice(2, 5)), cond(3, 2))


def test_samples_are_taken_whole_from_one_or_the_other() -> None:
    mixed = conditions.where(torch.tensor([True, False]), cond(2, 10), cond(2))
    assert equal(mixed, conditions.cat(cond(1, 10), cond(1, 1)))


def test_without_a_condition_all_of_it_does_nothing() -> None:
    assert conditions.cat({}, {}) == conditions.index({}, slice(1)) == {}


def test_conditions_of_other_fields_do_not_join() -> None:
    with pytest.raises(AssertionError, match="guidance"):
        conditions.cat(cond(1), {"labels": torch.tensor([1])})


def test_a_function_is_asked_once_for_the_very_same_condition() -> None:
    asked: list[int] = []
    doubled = conditions.once(lambda given: (asked.append(1), conditions.cat(given, given))[1])
    one, other = cond(2), cond(2)
    assert doubled(one) is doubled(one) and len(asked) == 1
    assert equal(doubled(other), doubled(one)) and len(asked) == 3
