"""Draws are functions of (seed, purpose, index) and of nothing else, with the moments they should have."""

import hashlib
import threading

import numpy as np
import torch

from ldm.core import seeds


def test_a_draw_does_not_depend_on_what_is_drawn_with_it() -> None:
    together = seeds.normal(3, "noise", range(10), (2, 3))
    alone = torch.cat([seeds.normal(3, "noise", [index], (2, 3)) for index in range(10)])
    backwards = seeds.normal(3, "noise", range(9, -1, -1), (2, 3)).flip(0)
    assert torch.equal(together, alone) and torch.equal(together, backwards)
    assert torch.equal(seeds.uniform(3, "time", range(10))[[7]], seeds.uniform(3, "time", [7]))
    assert np.array_equal(seeds.integers(3, "shift", range(10), 5, 2)[[7]], seeds.integers(3, "shift", [7], 5, 2))


def test_a_batch_draws_what_the_generator_of_each_index_draws() -> None:
    indices = [0, 1, 41, 2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**64]
    expected = [seeds.generator(5, "noise", index).standard_normal(7, dtype=np.float32) for index in indices]
    assert np.array_equal(seeds.normal(5, "noise", indices, (7,)).numpy(), np.stack(expected))
    uniform = [seeds.generator(5, "time", index).random() for index in indices]
    assert seeds.uniform(5, "time", indices).tolist() == uniform
    whole = [seeds.generator(5, "shift", index).integers(0, 7, size=3) for index in indices]
    assert np.array_equal(seeds.integers(5, "shift", indices, 7, 3), np.stack(whole))


def test_seeds_purposes_and_indices_all_make_a_difference() -> None:
    numbers = [
        seeds.uniform(seed, purpose, [index]).item()
        for seed in (0, 1, 2**40)
        for purpose in ("noise", "time", "")
        for index in (0, 1, 2**32, 2**63, 2**63 + 1, 2**64 + 1)
    ]
    assert len(set(numbers)) == len(numbers)


def test_streams_of_neighbouring_indices_do_not_overlap() -> None:
    draws = seeds.normal(0, "noise", range(4), (5000,)).numpy()
    assert len(np.unique(draws)) > 0.99 * draws.size
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 0.06  # four deviations at 1/√5000


def test_draws_are_the_same_in_several_threads_at_once() -> None:
    results: list[torch.Tensor] = []

    def draw() -> None:
        results.append(seeds.normal(1, "noise", range(200), (4, 4)))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(torch.equal(result, results[0]) for result in results)


def test_normal_draws_have_the_moments_of_a_normal() -> None:
    draws = seeds.normal(0, "noise", range(100), (1000,)).double()
    assert draws.mean().abs() < 4 / 100_000**0.5
    assert (draws.var() - 1).abs() < 4 * (2 / 100_000) ** 0.5
    assert ((draws**4).mean() - 3).abs() < 4 * (96 / 100_000) ** 0.5


def test_uniform_draws_over_indices_fill_the_unit_interval_evenly() -> None:
    draws = seeds.uniform(0, "time", range(10_000))
    assert draws.dtype == torch.float64 and draws.min() >= 0 and draws.max() < 1
    counts = torch.histc(draws, 20, 0, 1)
    assert ((counts - 500) ** 2 / 500).sum() < 43.8  # chi-square, 19 degrees of freedom, 0.1 %


def test_whole_numbers_cover_their_range_and_no_more() -> None:
    draws = seeds.integers(0, "shift", range(500), 5, 2)
    assert draws.shape == (500, 2) and draws.dtype == np.int64
    assert set(np.unique(draws)) == {0, 1, 2, 3, 4}


def test_no_indices_give_no_draws() -> None:
    assert seeds.normal(0, "noise", [], (3, 4)).shape == (0, 3, 4)
    assert seeds.uniform(0, "time", []).shape == (0,)
    assert seeds.integers(0, "shift", [], 5, 2).shape == (0, 2)
    assert seeds.normal(0, "noise", [2], ()).shape == (1,)


def test_the_generator_is_philox_keyed_by_seed_and_purpose_and_counted_by_index() -> None:
    """Philox 4x64-10 (Salmon et al. 2011) after the key and counter that the module's text names."""
    key = np.frombuffer(hashlib.blake2b(b"17/noise", digest_size=16).digest(), dtype="<u8")
    block = philox_4x64_10([1, 0, 5, 0], [int(word) for word in key])
    raw = seeds.generator(17, "noise", 5).bit_generator.random_raw(4)  # type: ignore[attr-defined]
    assert raw.tolist() == block


def philox_4x64_10(counter: list[int], key: list[int]) -> list[int]:
    """Return the block of four words at a counter; numpy counts up before it draws."""
    mask = 2**64 - 1
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = [(right >> 64) ^ counter[1] ^ key[0], right & mask, (left >> 64) ^ counter[3] ^ key[1], left & mask]
        key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
    return counter


def test_the_draws_are_the_ones_of_every_earlier_version() -> None:
    """Golden values: a change of generator, key or counter changes every picture of every seed."""
    golden = [[-1.150606632232666, 0.06007951870560646], [-0.3911234438419342, -0.18689315021038055]]
    assert torch.allclose(seeds.normal(0, "noise", [0, 17], (2,)), torch.tensor(golden), rtol=0, atol=1e-7)
    assert seeds.uniform(0, "time", [0, 17]).tolist() == [0.16768333603112617, 0.5025554828804234]
    assert seeds.integers(0, "shift", [0, 17], 100, 2).tolist() == [[87, 99], [78, 42]]
    assert seeds.torch_generator(0, "dead codes", 3).initial_seed() == 4314109099365016224


def test_weights_initialised_under_a_seed_and_purpose_are_always_the_same() -> None:
    weights = []
    for seed, purpose in ((0, "a"), (0, "a"), (0, "b"), (1, "a")):
        torch.rand(3)
        seeds.seed_everything(seed, purpose)
        weights.append(torch.nn.Linear(3, 3).weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[3])
    first, second = (torch.rand(4, generator=seeds.torch_generator(0, "codes", 2)) for _ in range(2))
    assert torch.equal(first, second)
