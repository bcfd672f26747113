"""Kernels are counted where something is computed, and nowhere else."""

import re
from pathlib import Path

import torch
from torch import nn

from ldm.core.denoisers.dit_config import PRESETS, DiTConfig
from ldm.core.estimation import kernels
from ldm.core.estimation.kernels import LAUNCH, Kernels

PAGE = (Path(__file__).parents[3] / "docs" / "scale.md").read_text(encoding="utf-8")


def small(depth: int, dtype: torch.dtype = torch.float32) -> Kernels:
    config = DiTConfig(latent_channels=4, latent_size=8, num_classes=3, width=32, depth=depth, heads=2, patch_size=2)
    return kernels.denoiser_kernels(config, dtype)


def test_views_and_empty_tensors_launch_nothing() -> None:
    x = torch.ones(4, 6)
    assert kernels.forward_kernels(lambda: x.view(6, 4).t()[1:].detach()) == 0
    assert kernels.forward_kernels(lambda: torch.empty(3)) == 0
    assert kernels.forward_kernels(lambda: (x @ x.T).relu().add_(1)) == 3


def test_a_step_has_the_kernels_of_its_passes_and_one_optimizer() -> None:
    layer, x = nn.Linear(6, 2, bias=False), torch.ones(2, 6)
    counted = kernels.task_kernels(lambda count: layer(x[:count]).relu().sum(), layer)
    assert counted.forward == 3 and counted.training >= 3 + 3 and counted.step == 4
    assert counted.in_step(2) == 2 * counted.training + 4
    assert counted.in_step(1, compiled=True) < counted.in_step(1)
    assert layer.weight.grad is None


def test_every_block_of_a_denoiser_adds_the_same_and_the_way_back_more_than_the_way_there() -> None:
    one, two, three = (small(depth) for depth in (1, 2, 3))
    assert three.forward - two.forward == two.forward - one.forward > 10
    assert three.training - two.training == two.training - one.training
    assert three.training > 2 * three.forward
    assert small(2, torch.bfloat16).forward > two.forward, "weights and inputs are narrowed"


def test_the_page_says_how_many_the_smallest_size_launches() -> None:
    config = DiTConfig(latent_channels=4, latent_size=32, num_classes=1000, **PRESETS["dit-s/2"])
    launched = kernels.denoiser_kernels(config, torch.bfloat16).in_step(1)
    (count, floor) = re.search(r"DiT-S/2 has ([\d,]+) of them, so that it takes at least ([\d.]+) ms", PAGE).groups()
    assert int(count.replace(",", "")) == launched and float(floor) == round(launched * LAUNCH * 1e3, 1)
