"""Counted operations are those of the formulas, and counted memory is what torch's allocator hands out."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import profile

from ldm.core.autoencoders import registry as autoencoders
from ldm.core.autoencoders.vq_config import VQVAEConfig
from ldm.core.denoisers import registry
from ldm.core.denoisers.dit_config import PRESETS, DiTConfig
from ldm.core.estimation import cost
from ldm.core.estimation.as_gpu import AsGPU
from ldm.core.estimation.live import LiveMemory, tensors_of
from ldm.core.estimation.machines import MACHINES
from ldm.core.system.precision import Policy
from ldm.core.training.ema import EMA
from ldm.core.training.optimizer import build_adamw, optimizer_state
from ldm.stages.configs.estimate import Where

SMALL = DiTConfig(latent_channels=4, latent_size=16, patch_size=2, width=64, depth=3, heads=2, num_classes=10)
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
        replace(SMALL, patch_size=4, learn_sigma=True, mlp_ratio=3.0),
        replace(SMALL, qk_norm=True, rope=True, latent_size=(8, 16)),
        DiTConfig(latent_channels=4, latent_size=32, num_classes=1000, **PRESETS["dit-s/2"]),
    ],
    ids=["small", "variance", "rope", "S/2"],
)
def test_the_operations_of_a_denoiser_are_those_of_the_formula(config: DiTConfig) -> None:
    counted = cost.denoiser_operations(config)
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
    counted = cost.denoiser_memory(SMALL, 32, policy, checkpointing)
    _, loss = step_of(SMALL, 32, policy, checkpointing)
    measured = allocated(lambda: loss().backward())
    assert counted.together - counted.weights - counted.moments - counted.average == pytest.approx(measured, rel=0.05)


def test_recomputing_activations_keeps_a_fraction_of_them() -> None:
    kept, recomputed = (cost.denoiser_memory(SMALL, 64, FP32, checkpointing) for checkpointing in (False, True))
    assert recomputed.activations < kept.activations / 5
    assert replace(kept, activations=0, together=0) == replace(recomputed, activations=0, together=0)


def test_weights_moments_and_average_are_those_of_a_training() -> None:
    counted = cost.denoiser_memory(SMALL, 1, FP32, False)
    network = registry.build(SMALL)
    optimizer = build_adamw(network, lr=1e-3)
    moments = optimizer_state(optimizer, network)
    assert counted.weights == counted.gradients == sum(4 * p.numel() for p in network.parameters())
    assert counted.moments == sum(4 * t.numel() for name, t in moments.items() if not name.endswith(".step"))
    assert counted.average == sum(4 * tensor.numel() for tensor in EMA(network, 0.9).state().values())


class Mixed(nn.Module):
    """What autocast narrows on every device, and what takes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        tokens = torch.addcmul(x.mean(), tokens, nn.functional.gelu(self.linear(tokens)))
        return self.linear(tokens) @ tokens.transpose(1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_without_values_keep_what_autocast_would(dtype: torch.dtype) -> None:
    kept = []
    for device in ("cpu", "meta"):
        network, x = Mixed().to(device), torch.empty(4, 3, 16, 16, device=device)
        around: Any = AsGPU(dtype) if device == "meta" else Policy(CPU, dtype).autocast()
        with LiveMemory([*tensors_of(network), x]) as memory:
            with around:
                loss = network(x).float().square().mean()
            kept.append(memory.live)
            del loss
    assert kept[0] == kept[1]


def test_a_gpu_keeps_no_attention_weights() -> None:
    """Only the CPU in bf16 writes attention out, for its fused backward pass is slow."""
    gpu, cpu = (cost.denoiser_memory(SMALL, 8, policy, False).activations for policy in (GPU16, BF16))
    weights = 8 * SMALL.depth * SMALL.heads * SMALL.num_tokens**2 * 2
    assert gpu < cpu and cpu - gpu < 4 * weights
    assert cost.denoiser_memory(SMALL, 8, GPU32, False).activations == pytest.approx(
        cost.denoiser_memory(SMALL, 8, FP32, False).activations, rel=0.01
    )


def test_a_step_that_is_taken_is_counted_per_image_and_carried_on_to_the_batch() -> None:
    config = VQVAEConfig(channels=8, channel_multipliers=(1, 2), num_res_blocks=1, codebook_size=16)
    network = autoencoders.build(config).codec
    assert isinstance(network, nn.Module)

    def loss(count: int) -> Tensor:
        out = network(torch.ones(count, 3, 16, 16))
        return out.images.square().mean() + out.loss

    operations, memory = cost.task_cost(loss, network, network, [], 6)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counted:
        loss(6).backward()
    assert operations.training == pytest.approx(counted.get_total_flops() / 6, rel=0.01)
    assert 2 < operations.training / operations.forward <= 3
    network.zero_grad(set_to_none=True)
    measured = allocated(lambda: loss(6).backward())
    assert memory.together - memory.weights - memory.moments - memory.average == pytest.approx(measured, rel=0.1)


def test_live_memory_sees_tensors_come_and_go() -> None:
    known = torch.ones(1000)
    with LiveMemory([known]) as memory:
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
    alone = cost.denoiser_memory(SMALL, 4, GPU16, False)
    four = cost.sharded(alone, 4, network.blocks, 2)
    for name in ("weights", "gradients", "moments", "average"):
        assert getattr(four, name) == getattr(alone, name) // 4, name
    assert four.activations == alone.activations
    block = 2 * sum(parameter.numel() for parameter in network.blocks[0].parameters())
    assert four.together == pytest.approx((alone.weights * 5) / 4 + alone.activations + 2 * block, rel=0.01)


def test_every_machine_that_can_be_asked_for_is_known() -> None:
    assert set(get_args(Where)) == {"this", *MACHINES}
    for name, machine in MACHINES.items():
        assert {"fp32", "fp16"} <= set(machine.rates) and min(machine.rates.values()) > 1e12, name
        assert machine.memory >= 16e9 and set(asdict(machine)) == {"rates", "memory"}
