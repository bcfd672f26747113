"""A training that lies in rows over its processes is the training of one: losses, checkpoints, resumption."""

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ldm.core import seeds
from ldm.core.denoisers import registry
from ldm.core.denoisers.dit_config import DiTConfig
from ldm.core.diffusion import objective as objectives
from ldm.core.diffusion.schedules import schedule
from ldm.core.distributed import processes
from ldm.core.errors import ConfigError, DataError
from ldm.core.progress import Silent
from ldm.core.system.precision import Policy
from ldm.core.system.transfer import split_batch
from ldm.core.training.loop import Batch, Plan, train
from ldm.core.training.step import Stepper
from tests.support.plans import FEW_STEPS, replace
from tests.support.several import run_together

CPU = torch.device("cpu")
FP32, BF16 = Policy(CPU, torch.float32), Policy(CPU, torch.bfloat16)
STEPS, BATCH = 8, 12
PLAN = replace(
    FEW_STEPS,
    images=BATCH * STEPS,
    batch_size=BATCH,
    warmup=24,
    clip=0.25,
    checkpoint_every=4 * BATCH,
    keep=99,
    log_every=BATCH,
    validate_every=3 * BATCH,
    shard=True,
)
# Five rows of labels, and ten of the final layer: what neither two nor three processes can share evenly.
CONFIG = DiTConfig(
    latent_channels=10, latent_size=4, patch_size=1, width=24, depth=2, heads=2, num_classes=4, qk_norm=True
)


class Denoising:
    """A tiny denoiser of random latents; what happens in a step's loss can be set."""

    num_samples, synchronous = 30, False

    def __init__(self, checkpointing: bool = False, policy: Policy = FP32) -> None:
        self.policy = policy
        seeds.seed_everything(PLAN.seed, "weights")
        self.network = registry.build(CONFIG)
        for module in (*self.network.modulation, self.network.final):  # Zeros have no gradient to speak of.
            nn.init.normal_(module.weight, std=0.05)
        self.network.checkpointing = checkpointing
        self.modules: nn.Module = self.network
        self.averaged: nn.Module = self.network
        self.networks: dict[str, nn.Module] = {"denoiser": self.network}
        self.objective = objectives.Denoising(schedule("cosine"))
        self.in_loss: dict[int, Callable[[], Any]] = {}

    def load(self, batch: Batch) -> tuple[Any, ...]:
        x0 = seeds.normal(0, "latents", batch.samples, (10, 4, 4))
        noise = seeds.normal(PLAN.seed, "noise", batch.positions, (10, 4, 4))
        t = self.objective.draw_times(seeds.uniform(PLAN.seed, "time", batch.positions))
        labels = torch.from_numpy(batch.samples % 5)
        return x0, noise, t, labels, batch.images_seen // BATCH

    def split(self, data: Any, parts: int) -> list[Any]:
        return split_batch(data, parts)

    def loss(self, role: str, data: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        factor = self.in_loss.get(data[-1], lambda: 1.0)()
        return factor * self.errors(*data[:-1]).mean(), {}

    def errors(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.objective.loss(self.network, x0, {"noise": noise, "t": t}, {"labels": labels})

    def after_step(self, accepted: bool) -> None: ...

    def validate(self) -> dict[str, float]:
        with torch.no_grad(), self.policy.autocast():
            x = seeds.normal(0, "held out", range(4), (10, 4, 4))
            t = torch.tensor([0.2, 0.4, 0.6, 0.8])
            return {"val_loss": float(self.errors(x, x, t, torch.arange(4)).mean())}

    def picture(self, folder: Path, images_seen: int) -> None: ...


Prepare = Callable[[Denoising, int], None]


def fit(
    folder: Path,
    size: int,
    plan: Plan = PLAN,
    policy: Policy = FP32,
    prepare: Prepare = lambda task, rank: None,
    checkpointing: bool = False,
    compiled: bool = False,
) -> list[int]:
    """Train in `size` processes and return their exit codes."""
    folder.mkdir(exist_ok=True)

    def work(rank: int) -> None:
        with processes.process_group(CPU):
            task = Denoising(checkpointing, policy)
            if compiled:
                for block in task.network.blocks:
                    block.compile()
            prepare(task, rank)
            train(task, plan, policy, folder, Silent())

    return run_together(size, work, patience=180)


def numbers(folder: Path, name: str) -> list[float]:
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def checkpoint(folder: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    path = folder / "checkpoints" / f"{step * BATCH:010d}"
    groups = {group: load_file(path / f"{group}.safetensors") for group in ("model", "ema", "optimizer")}
    return {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


def assert_same_run(folder: Path, other: Path) -> None:
    for name, count in (("loss", STEPS), ("grad_norm", STEPS), ("val_loss", 4)):
        assert len(numbers(other, name)) == count
        assert numbers(folder, name) == pytest.approx(numbers(other, name), rel=0, abs=1e-6), name
    mine, theirs = checkpoint(folder), checkpoint(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.allclose(mine[name], tensor, rtol=0, atol=2e-5), name


def stop_after(step: int) -> Prepare:
    def prepare(task: Denoising, rank: int) -> None:
        task.in_loss[step] = lambda: os.kill(os.getpid(), signal.SIGTERM) or 1.0

    return prepare


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert fit(folder, 1) == [0]
    assert max(numbers(folder, "grad_norm")) > PLAN.clip, "clipping clips"
    return folder


@pytest.mark.parametrize("size", [pytest.param(2, marks=pytest.mark.slow), 3])  # the next ones have two
def test_sharded_processes_have_the_losses_norms_and_checkpoint_of_one(tmp_path: Path, alone: Path, size: int) -> None:
    assert fit(tmp_path, size) == [0] * size
    assert_same_run(tmp_path, alone)


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_recomputing_activations_in_passes_changes_nothing(tmp_path: Path, alone: Path, accumulate: int) -> None:
    assert fit(tmp_path, 2, replace(PLAN, accumulate=accumulate), checkpointing=True) == [0, 0]
    assert_same_run(tmp_path, alone)


def test_a_run_goes_on_sharded_or_whole_in_any_number_of_processes(tmp_path: Path, alone: Path) -> None:
    assert fit(tmp_path, 1, prepare=stop_after(1)) == [75]
    assert fit(tmp_path, 2, prepare=stop_after(3)) == [75] * 2
    assert fit(tmp_path, 3, prepare=stop_after(4)) == [75] * 3
    assert fit(tmp_path, 2, replace(PLAN, shard=False), prepare=stop_after(6)) == [75] * 2
    assert fit(tmp_path, 1) == [0]
    assert_same_run(tmp_path, alone)


def test_resuming_sharded_goes_on_to_the_bit(tmp_path: Path) -> None:
    assert fit(tmp_path / "whole", 2) == [0, 0]
    assert fit(tmp_path / "stopped", 2, prepare=stop_after(4)) == [75, 75]
    assert fit(tmp_path / "stopped", 2) == [0, 0]
    whole, stopped = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "stopped")
    assert all(torch.equal(stopped[name], tensor) for name, tensor in whole.items())


def test_a_sharded_checkpoint_has_the_bytes_that_safetensors_writes(tmp_path: Path) -> None:
    assert fit(tmp_path, 2, replace(PLAN, images=BATCH)) == [0, 0]
    for path in (tmp_path / "checkpoints" / f"{BATCH:010d}").glob("*.safetensors"):
        save_file(load_file(path), tmp_path / path.name)
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_a_step_that_is_not_finite_in_one_process_is_skipped_in_all(tmp_path: Path) -> None:
    def harm(task: Denoising, rank: int) -> None:
        if rank == 1:
            task.in_loss = {2: lambda: float("nan"), 5: lambda: float("inf")}

    assert fit(tmp_path, 2, replace(PLAN, checkpoint_every=BATCH), prepare=harm) == [0, 0]
    assert numbers(tmp_path, "skipped") == [0, 0, 1, 1, 1, 2, 2, 2]
    for step in (3, 6):
        before, after = checkpoint(tmp_path, step - 1), checkpoint(tmp_path, step)
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(bool(tensor.isfinite().all()) for tensor in checkpoint(tmp_path).values())


def test_bf16_computes_with_rounded_weights_and_steps_whole_ones(tmp_path: Path) -> None:
    assert fit(tmp_path / "alone", 1, policy=BF16) == [0]
    assert fit(tmp_path / "pair", 2, policy=BF16) == [0, 0]
    assert numbers(tmp_path / "pair", "loss") == pytest.approx(numbers(tmp_path / "alone", "loss"), rel=0.02)
    weights = checkpoint(tmp_path / "pair")["model/blocks.0.mlp.up.weight"]
    assert weights.dtype == torch.float32 and not torch.equal(weights, weights.bfloat16().float())


def test_each_process_holds_its_part_of_every_tensor(tmp_path: Path) -> None:
    def look(rank: int) -> None:
        with processes.process_group(CPU):
            task = Denoising()
            total = sum(parameter.numel() for parameter in task.network.parameters())
            stepper = Stepper(task, PLAN, FP32)
            batch = Batch(*(torch.arange(6).numpy(),) * 2, images_seen=0)
            stepper.step(task.load(batch), 0, 100)
            held = [tensor for group in stepper.tensors().values() for tensor in group.local.values()]
            assert sum(tensor.numel() for tensor in held) == pytest.approx(4 * total / 3, rel=0.05)
            assert sum(p.to_local().numel() for p in task.network.parameters()) == pytest.approx(total / 3, rel=0.05)
            assert all(parameter.grad is None for parameter in task.network.parameters())

    assert run_together(3, look) == [0, 0, 0]


def test_half_precision_with_a_scaler_is_refused() -> None:
    def work(rank: int) -> None:
        with (
            processes.process_group(CPU),
            pytest.raises(ConfigError, match=r"`train\.shard` does not go with `machine\.precision=fp16`"),
        ):
            Stepper(Denoising(), PLAN, Policy(CPU, torch.float16))

    assert run_together(2, work) == [0, 0]


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert fit(tmp_path, 1, prepare=stop_after(1)) == [75]

    def widen(task: Denoising, rank: int) -> None:
        task.network.label.table = nn.Embedding(6, 24)

    assert fit(tmp_path, 2, prepare=widen) == [DataError.exit_code] * 2
    reported = [line for line in capfd.readouterr().err.splitlines() if ": reported: " in line]
    assert len(reported) == 1 and "label.table.weight" in reported[0] and "remove" in reported[0]


def test_a_full_disk_of_the_main_process_ends_all(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def limit(task: Denoising, rank: int) -> None:
        if rank == 0:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))

    assert fit(tmp_path, 2, prepare=limit) == [2, 2]
    reported = [line for line in capfd.readouterr().err.splitlines() if ": reported: " in line]
    assert len(reported) == 1 and "disk: cannot write" in reported[0]


@pytest.mark.slow
def test_compiled_blocks_can_be_sharded(tmp_path: Path, alone: Path) -> None:
    assert fit(tmp_path, 2, compiled=True) == [0, 0]
    assert numbers(tmp_path, "loss") == pytest.approx(numbers(alone, "loss"), rel=0, abs=1e-5)
