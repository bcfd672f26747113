"""What only a GPU can show: it does not wait, computes the same bits where it is told to, and agrees with itself.

LDM_TEST_DEVICE=cpu runs what does not need one on the CPU, to try the tests themselves.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ldm.core.denoisers.dit import DiT, DiTConfig
from ldm.core.errors import Stopped
from ldm.core.estimation import cost
from ldm.core.generation import Sampling, generate
from ldm.core.precision import Policy, make_deterministic, settle
from ldm.core.progress import Silent
from ldm.core.training.loop import Plan, train
from ldm.core.training.step import Stepper
from ldm.core.training.task import Batch
from ldm.stages import made_up
from ldm.stages.configs import TrainDiT, TrainVQVAE
from ldm.stages.train_dit import DenoisingTask
from ldm.stages.train_vqvae import AutoencodingTask

sys.path.insert(0, str(Path(__file__).parents[1]))
from several import environment, ranked

DEVICE = torch.device(os.environ.get("LDM_TEST_DEVICE", "cuda"))
pytestmark = pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="needs a GPU")
NEEDS_GPU = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU")
FP32, BF16 = Policy(DEVICE, torch.float32), Policy(DEVICE, torch.bfloat16)
CONFIG = DiTConfig(latent_channels=4, latent_size=16, patch_size=2, width=128, depth=4, heads=2, num_classes=10)
STEPS, BATCH = 12, 16
PLAN = Plan(
    images=BATCH * STEPS,
    batch_size=BATCH,
    accumulate=1,
    lr=1e-3,
    warmup=0,
    decay="constant",
    weight_decay=0.0,
    beta1=0.9,
    beta2=0.99,
    clip=1.0,
    ema=0.9,
    checkpoint_every=BATCH * STEPS,
    keep=9,
    log_every=BATCH,
    validate_every=0,
    tensorboard=False,
    seed=3,
)


def task_of(policy: Policy, config: DiTConfig = CONFIG, compiled: bool = False) -> DenoisingTask:
    """Return the task of `ldm train-dit` on latents of no meaning."""
    latents = made_up.latents((4, 16, 16), 10, True, policy.device)
    settings = TrainDiT.model_validate({"machine": {"compile": compiled}, "preview": {"every": 0}})
    task = DenoisingTask(settings, config, latents, None, policy)
    with torch.no_grad():
        for module in (*task.network.modulation, task.network.final):  # At zero, a denoiser's first steps say little.
            module.weight.normal_(std=0.02, generator=torch.Generator(policy.device).manual_seed(0))
    return task


def losses(policy: Policy, compiled: bool = False, steps: int = STEPS) -> list[float]:
    stepper = Stepper(task_of(policy, compiled=compiled), PLAN, policy)
    found = []
    for number in range(steps):
        positions = np.arange(number * BATCH, (number + 1) * BATCH)
        stepper.step(stepper.task.load(Batch(positions % 64, positions, 0)), number, 0)
        stepper.settle()
        found.append(stepper.meter.flush()["loss"])
    return found


@contextmanager
def deterministic() -> Iterator[None]:
    make_deterministic(DEVICE)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def refusing_to_wait() -> Iterator[None]:
    """Let torch raise where the program waits for the GPU."""
    if DEVICE.type != "cuda":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_bf16_trains_as_float32_does_up_to_its_digits() -> None:
    assert losses(BF16) == pytest.approx(losses(FP32), rel=0.02)


@pytest.mark.parametrize("policy", [FP32, BF16], ids=["fp32", "bf16"])
def test_compiled_blocks_train_as_written_ones_do(policy: Policy) -> None:
    tolerance = 0.02 if policy is BF16 else 2e-3  # TF32 has ten bits
    assert losses(policy, compiled=True, steps=6) == pytest.approx(losses(policy, steps=6), rel=tolerance)


@NEEDS_GPU
def test_a_gpu_settles_late_and_its_steps_wait_for_nothing() -> None:
    task = task_of(BF16)
    stepper = Stepper(task, PLAN, BF16)
    assert stepper.ahead
    data = [task.load(Batch(np.arange(BATCH), np.arange(BATCH), 0)) for _ in range(6)]
    data = [tuple(tensor.to(DEVICE) for tensor in each) for each in data]
    for number, each in enumerate(data[:3]):
        stepper.step(each, number, 0)
    with refusing_to_wait():
        for number, each in enumerate(data[3:], 3):
            stepper.step(each, number, 0)
    stepper.settle()
    assert stepper.ema.num_updates == 6


@pytest.mark.parametrize("ahead", [False, True])
def test_a_step_that_is_not_finite_moves_neither_weights_nor_average(ahead: bool) -> None:
    task = task_of(FP32)
    stepper = Stepper(task, PLAN, FP32, ahead=ahead)
    data = task.load(Batch(np.arange(BATCH), np.arange(BATCH), 0))
    stepper.step(data, 0, 0)
    stepper.settle()
    held = {
        **{name: tensor.clone() for name, tensor in task.network.state_dict().items()},
        **{f"ema {name}": tensor.clone() for name, tensor in stepper.ema.state().items()},
    }
    broken = (data[0] * float("nan"), *data[1:])
    stepper.step(broken, 1, 0)
    stepper.settle()
    now = {**task.network.state_dict(), **{f"ema {name}": tensor for name, tensor in stepper.ema.state().items()}}
    assert all(torch.equal(now[name], tensor) for name, tensor in held.items())
    assert stepper.guard.skipped == 1 and stepper.ema.num_updates == 1
    stepper.step(data, 2, 0)
    stepper.settle()
    assert stepper.guard.skipped == 1 and all(bool(p.isfinite().all()) for p in task.network.parameters())


class Interrupted(DenoisingTask):
    stop_at = STEPS + 1
    seen = 0

    def loss(self, player: str, data: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        Interrupted.seen += 1
        if Interrupted.seen == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(player, data)


def run(folder: Path, policy: Policy, stop_at: int) -> None:
    folder.mkdir(exist_ok=True)
    task = task_of(policy)
    task.__class__ = Interrupted
    Interrupted.seen = 0
    task.stop_at = stop_at  # type: ignore[attr-defined]
    try:
        train(task, PLAN, policy, folder, Silent())
    except Stopped:
        assert stop_at <= STEPS


@pytest.mark.parametrize("policy", [FP32, BF16], ids=["fp32", "bf16"])
def test_with_deterministic_kernels_a_resumed_run_is_the_uninterrupted_one_to_the_bit(
    tmp_path: Path, policy: Policy
) -> None:
    with deterministic():
        run(tmp_path / "whole", policy, STEPS + 1)
        run(tmp_path / "again", policy, STEPS + 1)
        run(tmp_path / "stopped", policy, 5)
        run(tmp_path / "stopped", policy, STEPS + 1)
    last = f"checkpoints/{PLAN.images:010d}"
    for name in ("model", "ema", "optimizer"):
        files = [(tmp_path / run / last / f"{name}.safetensors").read_bytes() for run in ("whole", "again", "stopped")]
        assert files[0] == files[1], f"{name}: the same command twice"
        assert files[0] == files[2], f"{name}: resumed"


def test_an_image_is_the_same_alone_and_in_a_batch() -> None:
    task = task_of(BF16)
    vqvae = AutoencodingTask(
        TrainVQVAE.model_validate({"data": {"image_size": 64}, "model": {"preset": "vqvae-s", "channels": 16}}),
        made_up.images(TrainVQVAE.model_validate({"data": {"image_size": 64}}).data, 10),
        FP32,
    )
    task.autoencoder = vqvae.autoencoder.eval()
    settle(task.network, BF16)
    sampling = Sampling(cfg=3.0, steps=6)
    together = generate(task.model(), np.arange(10), np.arange(10), sampling, BF16)
    alone = generate(task.model(), np.array([7]), np.array([7]), sampling, BF16)
    assert np.array_equal(together[7], alone[0])


@NEEDS_GPU
def test_a_sampler_waits_for_nothing_between_its_steps() -> None:
    from ldm.core.diffusion import samplers, times
    from ldm.core.diffusion.schedules import schedule
    from ldm.core.guided import Guidance, guided

    task = task_of(BF16)
    task.autoencoder = nn.Identity()  # type: ignore[assignment]  # nothing is decoded
    settle(task.network, BF16)
    steered = guided(task.model(), Guidance(cfg=3.0), BF16)
    x, labels = torch.randn(8, 4, 16, 16, device=DEVICE), torch.arange(8, device=DEVICE)
    path, grid = schedule("cosine"), times.grid(1000, 6)
    for name, sample in samplers.SAMPLERS.items():
        work = (steered.denoise, x, path, grid, labels)
        first = sample(*work, noise=lambda step: x)
        with refusing_to_wait():
            second = sample(*work, noise=lambda step: x)
        assert torch.equal(first, second), name


@NEEDS_GPU
@pytest.mark.parametrize("policy", [FP32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_estimated_memory_is_what_a_step_takes(policy: Policy, checkpointing: bool) -> None:
    config = replace(CONFIG, latent_size=32, width=384, depth=12, heads=6)
    batch = 64
    estimated = cost.denoiser_memory(config, batch, policy, checkpointing)
    network = DiT(config).to(DEVICE)
    network.checkpointing = checkpointing
    x, t = torch.randn(batch, 4, 32, 32, device=DEVICE), torch.rand(batch, device=DEVICE)
    labels = torch.zeros(batch, dtype=torch.int64, device=DEVICE)
    for _ in range(2):
        network.zero_grad(set_to_none=True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with policy.autocast():
            loss = network(x, t, labels).float().square().mean()
        loss.backward()
    taken = torch.cuda.max_memory_allocated() - before
    counted = estimated.together - estimated.weights - estimated.moments - estimated.average
    assert counted == pytest.approx(taken, rel=0.15)


def together(size: int, folder: Path, *words: str) -> None:
    """Run so many processes of `one_of_several.py`, each a fresh one: a GPU does not outlive a fork."""
    surroundings = environment(size)
    program = [sys.executable, str(Path(__file__).with_name("one_of_several.py")), str(folder), *words]
    started = [
        subprocess.Popen(program, env={**os.environ, **ranked(surroundings, rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(size)
    ]
    told = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0] * size, "\n".join(told)


def test_what_several_gpus_say_to_each_other_can_be_said_by_one_to_itself(tmp_path: Path) -> None:
    together(1, tmp_path)


@pytest.mark.parametrize("words", [(), ("--shard",)], ids=["averaged", "sharded"])
@pytest.mark.skipif(DEVICE.type == "cuda" and torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_have_the_losses_of_one(tmp_path: Path, words: tuple[str, ...]) -> None:
    together(2, tmp_path, *words)
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    run(tmp_path / "alone", FP32, STEPS + 1)
    alone = [json.loads(text) for text in (tmp_path / "alone" / "metrics.jsonl").read_text().splitlines()]
    found, expected = ([line["loss"] for line in each if "loss" in line] for each in (lines, alone))
    assert len(found) == STEPS and found == pytest.approx(expected, rel=1e-3)
