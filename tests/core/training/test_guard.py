"""A step that is not finite is skipped and counted; twenty within a hundred end the training."""

import pytest
import torch

from ldm.core.errors import Diverged
from ldm.core.training.guard import FiniteGuard

GOOD, NAN = torch.tensor(1.0), torch.tensor(float("nan"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_skips_the_step(value: float) -> None:
    guard = FiniteGuard()
    assert guard.check(0, torch.tensor([1.0, 1.0]))
    assert not guard.check(1, torch.tensor([1.0, value]))
    assert not guard.check(2, torch.tensor([value, 1.0]))
    assert not guard.check(3, torch.tensor(value))
    assert guard.skipped == 3


def test_twenty_of_a_hundred_steps_end_the_training() -> None:
    guard = FiniteGuard()
    bad = [5 * k for k in range(19)] + [99]
    with pytest.raises(Diverged, match="20 were not finite") as caught:
        for step in range(100):
            guard.check(step, NAN if step in bad else GOOD)
    assert step == 99 and guard.skipped == 20
    assert caught.value.exit_code == 4 and caught.value.remedy is not None and "train.lr" in caught.value.remedy


def test_a_training_that_diverges_at_once_is_told_in_the_steps_that_there_were() -> None:
    guard = FiniteGuard()
    with pytest.raises(Diverged, match="of the last 21 steps 20 were not finite") as caught:
        for step in range(21):
            guard.check(step, NAN if step else GOOD)
    assert "no checkpoint with such numbers was written" in str(caught.value.remedy), "there may be none at all"


def test_nineteen_of_every_hundred_steps_go_on_for_ever() -> None:
    guard = FiniteGuard()
    for step in range(1000):
        guard.check(step, NAN if step % 100 < 19 else GOOD)
    assert guard.skipped == 190


def test_the_hundredth_step_before_no_longer_counts() -> None:
    guard = FiniteGuard()
    for step in range(19):
        guard.check(step, NAN)
    assert not guard.check(100, NAN), "step 0 has left the window of 100 that ends here"
    with pytest.raises(Diverged):
        guard.check(100, NAN)


def test_a_resumed_guard_counts_on_where_it_was() -> None:
    guard = FiniteGuard()
    for step in range(19):
        guard.check(step, NAN)
    resumed = FiniteGuard.model_validate_json(guard.model_dump_json())
    assert resumed.skipped == 19
    with pytest.raises(Diverged):
        resumed.check(50, NAN)
