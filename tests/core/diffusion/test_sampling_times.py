import numpy as np
import pytest
import torch

from ldm.core.diffusion import times
from ldm.core.diffusion.names import SPACINGS

DIVISORS = (10, 20, 25, 50, 100, 250)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_number_of_steps_gives_exactly_that_many(spacing):
    for steps in range(1, 1001):
        grid = times.grid(1000, steps, spacing)
        assert grid.shape == (steps + 1,) and grid.dtype == torch.float64
        values = grid.tolist()
        assert values == sorted(set(values), reverse=True) and values[-1] == 0, steps
        assert values[0] == 1 or (spacing in ("leading", "flow") and values[0] < 1), steps
        if spacing not in ("uniform", "flow"):
            assert torch.equal(grid, (grid * 1000).round() / 1000), steps


@pytest.mark.parametrize("spacing", SPACINGS)
def test_steps_are_as_even_as_the_table_allows(spacing):
    for steps in (3, 7, 27, 101, 237, 600, 999):
        gaps = -times.grid(1000, steps, spacing)[:-1].diff() * 1000
        assert float(gaps.max() - gaps.min()) < 1.001, steps


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [*DIVISORS, 1000])
def test_grids_are_the_timesteps_of_diffusers_at_divisors(spacing, steps):
    diffusers = pytest.importorskip("diffusers")
    for offset in (0, 1) if spacing == "leading" and steps < 1000 else (0,):
        scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing, steps_offset=offset)
        scheduler.set_timesteps(steps)
        ours = times.grid(1000, steps, spacing, offset=offset)[:-1] * 1000 - 1
        np.testing.assert_array_equal(ours.round().long().numpy(), scheduler.timesteps.numpy())


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_trailing_and_linspace_are_those_of_diffusers_but_for_ties_and_one_step(spacing):
    """Halves are rounded by float error there, so single times differ by one table step.

    One linspace step starts there at t = 1/T, where there is hardly any noise to take away; here at t = 1.
    """
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing)
    for steps in (*range(2, 60), 237, 333, 600, 999):
        scheduler.set_timesteps(steps)
        ours = (times.grid(1000, steps, spacing)[:-1] * 1000 - 1).round().long()
        difference = np.abs(ours.numpy() - scheduler.timesteps.numpy())
        assert difference.max() <= 1 and (difference > 0).mean() < 0.1, steps
    scheduler.set_timesteps(1)
    assert times.grid(1000, 1, spacing)[0] == 1
    assert scheduler.timesteps.tolist() == ([999] if spacing == "trailing" else [0])


def test_leading_times_are_as_even_as_the_table_allows_where_steps_do_not_divide_it():
    assert (10 * times.grid(10, 3, "leading")).round().tolist() == [7, 4, 1, 0]
    assert (10 * times.grid(10, 7, "leading")).round().tolist() == [9, 8, 6, 5, 3, 2, 1, 0]
    assert (10 * times.grid(10, 4, "leading", offset=1)).round().tolist() == [9, 7, 4, 2, 0]


def test_leading_covers_the_table_where_the_stride_of_diffusers_does_not():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(timestep_spacing="leading")
    scheduler.set_timesteps(600)
    assert int(scheduler.timesteps[0]) == 599  # of 999: more than a third of the path is left out
    assert times.grid(1000, 600, "leading")[0] == 0.999


def test_stable_diffusion_s_last_step_ends_at_the_first_table_point():
    grid = times.grid(1000, 50, "leading", offset=1, to_zero=False)
    assert grid[0] == 0.982 and grid[-2] == 0.002 and grid[-1] == 0.001


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1000, 0, "trailing"), "0 steps"),
        ((1000, 1001, "leading"), "1001 steps cannot be taken on a schedule of 1000"),
        ((1000, 10, "karras"), "'karras' is not one of leading"),
        ((1000, 10, "trailing", 1), "offset 1 belongs to leading"),
        ((1000, 1000, "leading", 1), "do not fit"),
        ((1000, 10, "leading", 0, False), "do not fit"),
    ],
)
def test_grids_that_do_not_exist_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        times.grid(*arguments)


@pytest.mark.parametrize("num_steps", [1, 7, 1000])
def test_uniform_numbers_reach_all_times_of_the_table_equally_often(num_steps):
    middles = (torch.arange(num_steps * 3, dtype=torch.float64) + 0.5) / (num_steps * 3)
    index = times.on_table(middles, num_steps) * num_steps
    counts = torch.bincount(index.round().long(), minlength=num_steps + 1)
    assert counts[0] == 0 and (counts[1:] == 3).all()
    ends = times.on_table(torch.tensor([0.0, 1 - 2**-24]), num_steps)
    torch.testing.assert_close(ends, torch.tensor([1 / num_steps, 1.0]))


def test_continuous_times_are_even_and_never_zero():
    t = times.continuous_times(torch.linspace(0, 1 - 1e-7, 1001, dtype=torch.float64))
    assert t.min() > 0 and t.max() <= 1
    assert float(t.diff().max() - t.diff().min()) < 1e-12


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.4, 1.3), (1.0, 0.5)])
def test_logit_normal_times_have_normal_logits(mean, std):
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    t = times.logit_normal(u, mean, std)
    assert (t.diff() > 0).all()
    logits = torch.logit(t)
    assert float(logits.mean()) == pytest.approx(mean, abs=1e-6)
    assert float(logits.std()) == pytest.approx(std, rel=1e-3)
    ends = times.logit_normal(torch.tensor([0.0, 1 - 2**-24]), mean, std)
    assert 0 < ends[0] < t[0] and t[-1] < ends[1] < 1


def test_shift_moves_the_middle_and_keeps_the_ends():
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(times.shift(t, 3.0), torch.tensor([0.0, 0.75, 1.0], dtype=torch.float64))
    assert torch.equal(times.shift(t, 1.0), t)
    torch.testing.assert_close(times.shift(times.shift(t, 3.0), 1 / 3), t)


def test_shift_is_that_of_diffusers_flow_matching():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1, 0.1, 10))
    ours = times.shift(times.grid(1000, 10, "uniform"), 3.0)
    torch.testing.assert_close(scheduler.sigmas.double(), ours, rtol=0, atol=1e-6)


def test_shifts_and_widths_that_are_not_positive_are_refused():
    with pytest.raises(ValueError, match="time shift is 0"):
        times.shift(torch.zeros(1), 0.0)
    with pytest.raises(ValueError, match="std is -1"):
        times.logit_normal(torch.zeros(1), 0.0, -1.0)


def test_a_shift_leads_to_no_time_beyond_one() -> None:
    for hundredths in range(1, 1000):
        shifted = times.shift(times.grid(1000, 7), hundredths / 100)
        assert float(shifted.max()) == pytest.approx(1) and float(shifted.max()) <= 1 and float(shifted[-1]) == 0
