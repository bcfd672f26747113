"""Counted FLOPs are those of the formulas, counted memory what torch's allocator gives, and the page says the same."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import profile

from ldm.core.autoencoders import registry as autoencoders
from ldm.core.autoencoders.vq_config import VQVAEConfig
from ldm.core.denoisers import registry
from ldm.core.denoisers.dit_config import PRESETS, DiTConfig
from ldm.core.system import flops
from ldm.core.system.flops import GPUS, LARGE, LAUNCH, SMALL_UTILISATION, UTILISATION, Watch
from ldm.core.system.precision import Policy
from ldm.core.training.ema import EMA
from ldm.core.training.optimizer import build_optimizer, optimizer_state
from ldm.stages.configs.estimate import Where
from ldm.stages.tools.stage_costs import denoiser_cost

PAGE = (Path(__file__).parents[3] / "docs" / "scale.md").read_text(encoding="utf-8")
SMALL = DiTConfig(latent_channels=4, latent_size=16, patch_size=2, width=64, depth=3, heads=2, num_classes=10)
LABELS = {"labels": torch.zeros(1, dtype=torch.int64)}
CPU = torch.device("cpu")
FP32, BF16 = Policy(CPU, torch.float32), Policy(CPU, torch.bfloat16)
GPU32, GPU16 = Policy(torch.device("cuda"), torch.float32), Policy(torch.device("cuda"), torch.bfloat16)


def formula(config: DiTConfig) -> tuple[int, int]:
    """Operations of a DiT by hand: two for each weight of a linear map and token, four T²D for attention, forward;
    training is three times that but for gradients of inputs that need none: patches and sinusoids of the time."""
    tokens, width, hidden = config.num_tokens, config.width, int(config.width * config.mlp_ratio)
    patch = config.patch_size**2 * config.latent_channels * width * tokens
    up = config.frequencies * width
    once = up + width**2 + (6 * config.depth + 2) * width**2
    block = tokens * (4 * width**2 + 2 * width * hidden) + 2 * tokens**2 * width
    final = tokens * width * config.patch_size**2 * config.out_channels
    forward = 2 * (patch + once + config.depth * block + final)
    return forward, 3 * forward - 2 * (patch + up)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        SMALL.replace(patch_size=4, learn_sigma=True, mlp_ratio=3.0),
        SMALL.replace(qk_norm=True, rope=True, latent_size=(8, 16)),
        DiTConfig(latent_channels=4, latent_size=32, num_classes=1000, **PRESETS["dit-s/2"]),
    ],
    ids=["small", "variance", "rope", "S/2"],
)
def test_the_operations_of_a_denoiser_are_those_of_the_formula(config: DiTConfig) -> None:
    counted, _ = denoiser_cost(config, LABELS, 1, FP32, False)
    assert (counted.forward, counted.training) == formula(config)


def test_the_published_sizes_have_the_published_operations() -> None:
    """Peebles & Xie 2023, table 4, at 32 x 32 x 4: Gflops, which there are multiplications with their additions."""
    for name, published in {"DiT-S/2": 6.06, "DiT-B/4": 5.56, "DiT-XL/2": 118.64}.items():
        config = DiTConfig(
            latent_channels=4, latent_size=32, num_classes=1000, learn_sigma=True, **PRESETS[name.lower()]
        )
        assert formula(config)[0] / 2e9 == pytest.approx(published, rel=0.01), name


def step_of(
    config: DiTConfig, batch: int, policy: Policy, checkpointing: bool
) -> tuple[nn.Module, Callable[[], Tensor]]:
    torch.manual_seed(0)
    network = registry.build(config)
    network.checkpointing = checkpointing
    x, t = torch.randn(batch, config.latent_channels, *config.size), torch.rand(batch)
    cond = {"labels": torch.zeros(batch, dtype=torch.int64)}

    def loss() -> Tensor:
        with policy.autocast():
            return network(x, t, cond).float().square().mean()

    return network, loss


def allocated(work: Callable[[], Any]) -> int:
    """Return the most bytes that torch's allocator had handed out at a time during a piece of work."""
    with profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [each for each in profiled.profiler.kineto_results.events() if each.name() == "[memory]"]
    now = most = 0
    for each in sorted(events, key=lambda event: event.start_ns()):
        now += each.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("policy", [FP32, BF16], ids=["fp32", "bf16"])
def test_the_counted_memory_of_a_step_is_what_the_allocator_hands_out(policy: Policy, checkpointing: bool) -> None:
    """The most there is while the passes run, but for weights, moments and average, which are there before."""
    counted = denoiser_cost(SMALL, LABELS, 32, policy, checkpointing)[1]
    _, loss = step_of(SMALL, 32, policy, checkpointing)
    measured = allocated(lambda: loss().backward())
    assert counted.together - counted.weights - counted.moments - counted.average == pytest.approx(measured, rel=0.05)


def test_recomputing_activations_keeps_a_fraction_of_them() -> None:
    kept, recomputed = (denoiser_cost(SMALL, LABELS, 64, FP32, checkpointing)[1] for checkpointing in (False, True))
    assert recomputed.activations < kept.activations / 5
    assert replace(kept, activations=0, together=0) == replace(recomputed, activations=0, together=0)


def test_weights_moments_and_average_are_those_of_a_training() -> None:
    counted = denoiser_cost(SMALL, LABELS, 1, FP32, False)[1]
    network = registry.build(SMALL)
    optimizer = build_optimizer(network, lr=1e-3)
    moments = optimizer_state(optimizer, network)
    assert counted.weights == counted.gradients == sum(4 * p.numel() for p in network.parameters())
    assert counted.moments == sum(4 * t.numel() for name, t in moments.items() if not name.endswith(".step"))
    assert counted.average == sum(4 * tensor.numel() for tensor in EMA(network, 0.9).state().values())


def test_a_gpu_keeps_no_attention_weights() -> None:
    """Only the CPU in bf16 writes attention out, for its fused backward pass is slow."""
    gpu, cpu = (denoiser_cost(SMALL, LABELS, 8, policy, False)[1].activations for policy in (GPU16, BF16))
    weights = 8 * SMALL.depth * SMALL.heads * SMALL.num_tokens**2 * 2
    assert gpu < cpu and cpu - gpu < 4 * weights
    assert denoiser_cost(SMALL, LABELS, 8, GPU32, False)[1].activations == pytest.approx(
        denoiser_cost(SMALL, LABELS, 8, FP32, False)[1].activations, rel=0.01
    )


def test_a_step_that_is_taken_is_counted_per_image_and_carried_on_to_the_batch() -> None:
    config = VQVAEConfig(channels=8, channel_multipliers=(1, 2), num_res_blocks=1, codebook_size=16)
    network = autoencoders.build(config).codec
    assert isinstance(network, nn.Module)

    def loss(count: int) -> Tensor:
        out = network(torch.ones(count, 3, 16, 16))
        return out.images.square().mean() + out.loss

    passes, memory = flops.task_cost(loss, network, network, 6)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counted:
        loss(6).backward()
    assert passes.training == pytest.approx(counted.get_total_flops() / 6, rel=0.01)
    assert 2 < passes.training / passes.forward <= 3
    network.zero_grad(set_to_none=True)
    measured = allocated(lambda: loss(6).backward())
    assert memory.together - memory.weights - memory.moments - memory.average == pytest.approx(measured, rel=0.1)


def test_watched_memory_sees_tensors_come_and_go() -> None:
    known = torch.ones(1000)
    with Watch([known]) as memory:
        view = known.view(10, 100)
        made = torch.ones(50) * 2  # and a temporary of as many
        assert memory.live == 200 and memory.peak == 400
        alias = made[:10]
        del made
        assert memory.live == 200, "a view keeps it"
        del alias
        assert memory.live == 0 and memory.peak == 400 and len(view) == 10


def test_processes_that_shard_hold_a_part_each_and_two_blocks_whole() -> None:
    network = registry.outline(SMALL)
    alone = denoiser_cost(SMALL, LABELS, 4, GPU16, False)[1]
    four = flops.sharded(alone, 4, network.blocks, 2)
    for name in ("weights", "gradients", "moments", "average"):
        assert getattr(four, name) == getattr(alone, name) // 4, name
    assert four.activations == alone.activations
    block = 2 * sum(parameter.numel() for parameter in network.blocks[0].parameters())
    assert four.together == pytest.approx((alone.weights * 5) / 4 + alone.activations + 2 * block, rel=0.01)


def test_every_gpu_that_can_be_asked_for_is_known() -> None:
    assert set(get_args(Where)) == {"this", *GPUS}
    for name, rates in GPUS.items():
        assert {"fp32", "fp16"} <= set(rates) <= {"fp32", "bf16", "fp16"} and min(rates.values()) > 1, name


def kernels_of(run: Callable[[], Any]) -> int:
    return flops.forward_cost(run)[1]


def test_views_and_empty_tensors_launch_nothing() -> None:
    x = torch.ones(4, 6)
    assert kernels_of(lambda: x.view(6, 4).t()[1:].detach()) == kernels_of(lambda: torch.empty(3)) == 0
    assert kernels_of(lambda: (x @ x.T).relu().add_(1)) == 3


def test_every_block_of_a_denoiser_launches_the_same_and_the_way_back_more_than_the_way_there() -> None:
    one, two, three = (denoiser_cost(SMALL.replace(depth=depth), LABELS, 1, GPU32, False)[0] for depth in (1, 2, 3))
    assert three.forward_kernels - two.forward_kernels == two.forward_kernels - one.forward_kernels > 10
    assert three.training_kernels - two.training_kernels == two.training_kernels - one.training_kernels
    assert three.training_kernels > 2 * three.forward_kernels
    in_bf16, _ = denoiser_cost(SMALL, LABELS, 1, GPU16, False)
    assert in_bf16.forward_kernels > three.forward_kernels, "weights and inputs are narrowed"


def rows(size: str) -> list[list[float]]:
    """Return the numbers of a size's rows on the page, table by table."""
    found = re.findall(rf"^\| {re.escape(size)} \|(.*)\|$", PAGE, re.M)
    return [[float(re.sub(r"[^\d.]", "", cell)) for cell in row.split("|")] for row in found]


def test_the_page_prints_the_counted_flops_memory_and_kernels_of_the_smallest_size() -> None:
    config = DiTConfig(latent_channels=4, latent_size=32, num_classes=1000, **PRESETS["dit-s/2"])
    parameters, printed, *memory = rows("DiT-S/2")[0]
    passes, kept = denoiser_cost(config, LABELS, 32, GPU16, checkpointing=False)
    _, recomputed = denoiser_cost(config, LABELS, 32, GPU16, checkpointing=True)
    assert passes.training / 1e9 == pytest.approx(printed, abs=0.05)
    assert [kept.together / 1e9, recomputed.together / 1e9] == pytest.approx(memory[:2], abs=0.05)
    assert kept.weights / 4e6 == pytest.approx(parameters, abs=0.05)
    count, floor = re.search(r"DiT-S/2 has ([\d,]+) of them, so it takes at least ([\d.]+) ms", PAGE).groups()
    launched = passes.training_kernels + passes.optimizer_kernels
    assert int(count.replace(",", "")) == launched and float(floor) == round(launched * LAUNCH * 1e3, 1)


@pytest.mark.parametrize("size", ["DiT-S/2", "DiT-B/2", "DiT-L/2", "DiT-XL/2"])
def test_images_a_second_on_the_page_are_the_printed_share_of_the_data_sheet(size: str) -> None:
    (millions, operations, *_), images = rows(size)
    (named,) = re.findall(r"^\| \|( b200 .*)\|$", PAGE, re.M)
    gpus = [name.split(",")[0].strip() for name in named.split("|")]
    assert f"at {UTILISATION * 100:.0f} %" in PAGE and len(gpus) == len(images)
    share = SMALL_UTILISATION if millions * 1e6 < LARGE else UTILISATION
    for gpu, number in zip(gpus, images, strict=True):
        assert GPUS[gpu]["bf16"] * 1e3 * share / operations == pytest.approx(number, rel=2e-3, abs=0.5), gpu
