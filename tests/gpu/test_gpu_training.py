"""Training on a GPU: it does not wait, computes the same bits where it is asked to, and agrees with itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldm.core.denoisers.dit import DiT
from ldm.core.system.precision import Policy
from ldm.core.training.step import Stepper
from ldm.core.training.task import Batch
from ldm.stages.tools.stage_costs import denoiser_cost
from tests.support.on_a_gpu import (
    BATCH,
    BF16,
    CONFIG,
    DEVICE,
    FP32,
    NEEDS_GPU,
    PLAN,
    SLOW_ON_A_CPU,
    deterministic,
    losses,
    refusing_to_wait,
    run,
    task_of,
)


def test_bf16_trains_as_float32_does_up_to_its_digits() -> None:
    assert losses(BF16) == pytest.approx(losses(FP32), rel=0.02)


@SLOW_ON_A_CPU
@pytest.mark.parametrize("policy", [FP32, BF16], ids=["fp32", "bf16"])
def test_compiled_blocks_train_as_written_ones_do(policy: Policy) -> None:
    tolerance = 0.02 if policy is BF16 else 2e-3  # TF32 has ten bits
    assert losses(policy, compiled=True, steps=6) == pytest.approx(losses(policy, steps=6), rel=tolerance)


def _on_device(data: Any) -> Any:
    return {name: each.to(DEVICE) for name, each in data.items()} if isinstance(data, dict) else data.to(DEVICE)


@NEEDS_GPU
def test_a_gpu_defers_the_check_and_its_steps_wait_for_nothing() -> None:
    task = task_of(BF16)
    stepper = Stepper(task, PLAN, BF16)
    assert stepper.defer_check
    data = [task.load(Batch(np.arange(BATCH), np.arange(BATCH), 0)) for _ in range(6)]
    data = [tuple(map(_on_device, each)) for each in data]
    for number, each in enumerate(data[:3]):
        stepper.step(each, number, 0)
    with refusing_to_wait():
        for number, each in enumerate(data[3:], 3):
            stepper.step(each, number, 0)
    stepper.flush()
    assert stepper.ema.num_updates == 6


@pytest.mark.parametrize("defer_check", [False, True])
def test_a_step_that_is_not_finite_moves_neither_weights_nor_average(defer_check: bool) -> None:
    task = task_of(FP32)
    stepper = Stepper(task, PLAN, FP32, defer_check=defer_check)
    data = task.load(Batch(np.arange(BATCH), np.arange(BATCH), 0))
    stepper.step(data, 0, 0)
    stepper.flush()
    held = {
        **{name: tensor.clone() for name, tensor in task.network.state_dict().items()},
        **{f"ema {name}": tensor.clone() for name, tensor in stepper.ema.state().items()},
    }
    broken = (data[0] * float("nan"), *data[1:])
    stepper.step(broken, 1, 0)
    stepper.flush()
    now = {**task.network.state_dict(), **{f"ema {name}": tensor for name, tensor in stepper.ema.state().items()}}
    assert all(torch.equal(now[name], tensor) for name, tensor in held.items())
    assert stepper.guard.skipped == 1 and stepper.ema.num_updates == 1
    stepper.step(data, 2, 0)
    stepper.flush()
    assert stepper.guard.skipped == 1 and all(bool(p.isfinite().all()) for p in task.network.parameters())


@pytest.mark.parametrize("policy", [FP32, BF16], ids=["fp32", "bf16"])
def test_with_deterministic_kernels_a_resumed_run_is_the_uninterrupted_one_to_the_bit(
    tmp_path: Path, policy: Policy
) -> None:
    with deterministic():
        run(tmp_path / "whole", policy)
        run(tmp_path / "again", policy)
        run(tmp_path / "stopped", policy, 5)
        run(tmp_path / "stopped", policy)
    last = f"checkpoints/{PLAN.images:010d}"
    for name in ("model", "ema", "optimizer"):
        files = [(tmp_path / run / last / f"{name}.safetensors").read_bytes() for run in ("whole", "again", "stopped")]
        assert files[0] == files[1], f"{name}: the same command twice"
        assert files[0] == files[2], f"{name}: resumed"


@NEEDS_GPU
@pytest.mark.parametrize("policy", [FP32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_estimated_memory_is_what_a_step_takes(policy: Policy, checkpointing: bool) -> None:
    config = CONFIG.replace(latent_size=32, width=384, depth=12, heads=6)
    batch = 64
    cond = {"labels": torch.zeros(batch, dtype=torch.int64, device=DEVICE)}
    estimated = denoiser_cost(config, cond, batch, policy, checkpointing)[1]
    network = DiT(config).to(DEVICE)
    network.checkpointing = checkpointing
    x, t = torch.randn(batch, 4, 32, 32, device=DEVICE), torch.rand(batch, device=DEVICE)
    for _ in range(2):
        network.zero_grad(set_to_none=True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with policy.autocast():
            loss = network(x, t, cond).float().square().mean()
        loss.backward()
    taken = torch.cuda.max_memory_allocated() - before
    counted = estimated.together - estimated.weights - estimated.moments - estimated.average
    assert counted == pytest.approx(taken, rel=0.15)
