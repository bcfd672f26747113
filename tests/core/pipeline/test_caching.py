"""Blocks reused between steps: which are computed when, what stands in their place, and that images stay their own."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.core.denoisers.dit_config import DiTConfig
from ldm.core.denoisers.linear_dit_config import LinearDiTConfig
from ldm.core.denoisers.mmdit_config import MMDiTConfig
from ldm.core.denoisers.network import DenoiserNetwork
from ldm.core.denoisers.registry import build
from ldm.core.denoisers.text_dit_config import TextDiTConfig
from ldm.core.diffusion.conditions import Cond
from ldm.core.pipeline.caching import CachedBlocks
from ldm.core.pipeline.generation import Sampling, generate
from tests.core.pipeline.test_guided import POLICY, model

SHAPE = {"latent_channels": 4, "latent_size": 4, "patch_size": 2, "width": 16, "depth": 4, "heads": 2}
CLASSES = {**SHAPE, "num_classes": 2, "label_dropout": 0.1}
CONFIGS = {
    "dit": DiTConfig(**CLASSES),
    "mmdit": MMDiTConfig(**CLASSES, text_width=16),
    "linear-dit": LinearDiTConfig(**CLASSES, text_width=16, cross_heads=2),
    "dit-cross": TextDiTConfig(**CLASSES, text_width=16, text="cross"),
}
FAMILIES = pytest.mark.parametrize("family", CONFIGS)


def network(family: str = "dit") -> DenoiserNetwork:
    """One with random weights throughout, so that no gate hides a block."""
    torch.manual_seed(0)
    built = build(CONFIGS[family])
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return built.eval().requires_grad_(False)


def given(net: DenoiserNetwork) -> tuple[Tensor, Cond]:
    """Noise, and a condition that is prepared, as sampling does."""
    return torch.randn(3, 4, 4, 4), net.prepare({"labels": torch.arange(3) % 3})


def called(cached: CachedBlocks, x: Tensor, time: float, cond: Cond) -> Tensor:
    cached.at(time)
    return cached(x, torch.full((len(x),), time), cond)


@FAMILIES
@torch.no_grad()
def test_middle_blocks_are_computed_at_every_third_step_and_the_others_at_all(family: str) -> None:
    net = network(family)
    x, cond = given(net)
    own, counts = net.blocks, [0] * len(net.blocks)
    for number, block in enumerate(own):

        def count(module: object, inputs: object, output: object, number: int = number) -> None:
            counts[number] += 1

        block.register_forward_hook(count)
    cached = CachedBlocks(net, 3)
    for step in range(7):
        output, plain = called(cached, x, 1 - step / 10, cond), net(x, torch.full((3,), 1 - step / 10), cond)
        assert torch.equal(output, plain) == (step % 3 == 0)
    assert counts == [14, 7 + 3, 7 + 3, 14] and net.blocks is own


@FAMILIES
@torch.no_grad()
def test_what_is_reused_is_what_the_middle_blocks_added(family: str) -> None:
    net = network(family)
    x, cond = given(net)
    cached = CachedBlocks(net, 2)
    called(cached, x, 0.5, cond)
    _, hidden = net(x, torch.full((3,), 0.5), cond, taps=(0, 2))
    near = 0.4
    _, then = net(x, torch.full((3,), near), cond, taps=(0,))
    seen: list[Tensor] = []
    last = net.blocks[-1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    called(cached, x, near, cond)
    last.remove()
    torch.testing.assert_close(seen[0], then[0] + hidden[2] - hidden[0])


@torch.no_grad()
def test_calls_at_one_time_are_remembered_apart_and_rising_times_compute_all() -> None:
    net = network()
    x, cond = given(net)
    other = x.flip(0)
    cached = CachedBlocks(net, 2)
    for time in (0.9, 0.8):
        both = [called(cached, each, time, cond) for each in (x, other)]
        alone = CachedBlocks(net, 2)
        called(alone, other, 0.9, cond)
        assert time == 0.9 or torch.equal(both[1], called(alone, other, 0.8, cond))
    assert torch.equal(called(cached, x, 0.95, cond), net(x, torch.full((3,), 0.95), cond))
    some = {name: field[:2] for name, field in cond.items()}
    assert torch.equal(called(cached, x[:2], 0.9, some), net(x[:2], torch.full((2,), 0.9), some))


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp-2m"])
def test_an_image_drawn_with_a_cache_is_the_same_alone_and_among_others(sampler: str) -> None:
    toy = model(network=network(), latent_shape=(4, 4, 4))
    cond, seeds = {"labels": torch.arange(5) % 2}, np.arange(5)

    def drawn(cache: int, rows: slice = slice(None)) -> np.ndarray:
        how = Sampling(sampler=sampler, steps=6, cfg=2.0, cfg_interval=(0.3, 0.8), cache=cache)
        return generate(toy, {"labels": cond["labels"][rows]}, seeds[rows], how, POLICY)

    plain, cached = drawn(1), drawn(2)
    assert np.array_equal(drawn(2, slice(3, 4)), cached[3:4]) and not np.array_equal(plain, cached)
