"""How many processes share a training changes nothing but its speed; and they end together, whatever ends one."""

import json
import os
import signal
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ldm.core import seeds
from ldm.core.distributed import processes
from ldm.core.distributed.averaging import GradientMean
from ldm.core.errors import ConfigError, DataError
from ldm.core.progress import Silent
from ldm.core.system.precision import Policy
from ldm.core.system.transfer import split_batch
from ldm.core.training.loop import Batch, Plan, train
from ldm.core.training.step import Stepper
from tests.support.plans import FEW_STEPS, replace
from tests.support.several import run_together

CPU = torch.device("cpu")
STEPS = 20
PLAN = replace(
    FEW_STEPS,
    images=8 * STEPS,
    batch_size=8,
    warmup=16,
    checkpoint_every=32,
    keep=9,
    validate_every=80,
)


class Fit:
    """Fit a small network to noisy points, noting which are seen; what happens in one process's step can be set."""

    num_samples = 30

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        seeds.seed_everything(PLAN.seed + rank, "weights")  # The first one's count.
        self.network = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 2))
        self.modules: nn.Module = self.network
        self.averaged: nn.Module = self.network
        self.networks: dict[str, nn.Module] = {"fit": self.network}
        self.points = seeds.normal(0, "points", range(self.num_samples), (3,))
        self.in_load: dict[int, Callable[[], Any]] = {}
        self.in_loss: dict[int, Callable[[], Any]] = {}
        self.after: dict[int, Callable[[], Any]] = {}
        self.step = 0

    def load(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, int]:
        step = batch.images_seen // PLAN.batch_size
        self.in_load.get(step, int)()
        with (self.folder / f"seen-{self.rank}.txt").open("a") as file:
            file.write(json.dumps([step, batch.samples.tolist()]) + "\n")
        x = self.points[batch.samples] + 0.1 * seeds.normal(PLAN.seed, "noise", batch.positions, (3,))
        return x, torch.stack([x.sum(1), x.prod(1)], dim=1), step

    def split(self, data: Any, parts: int) -> list[Any]:
        return split_batch(data, parts)

    def loss(self, role: str, data: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x, y, self.step = data
        factor = self.in_loss.get(self.step, lambda: 1.0)()
        return factor * (self.network(x) - y).square().mean(), {"largest": x.abs().mean()}

    def after_step(self, accepted: bool) -> None:
        self.after.get(self.step, int)()

    def validate(self) -> dict[str, float]:
        return {"val_loss": float(self.network(self.points).square().mean())}

    def picture(self, folder: Path, images_seen: int) -> None: ...


def fit(folder: Path, size: int, plan: Plan = PLAN, prepare: Callable[[Fit, int], None] | None = None) -> list[int]:
    """Train in `size` processes and return their exit codes; each leaves its weights and what it saw."""
    folder.mkdir(exist_ok=True)

    def work(rank: int) -> None:
        with processes.process_group(CPU):
            task = Fit(folder, rank)
            if prepare is not None:
                prepare(task, rank)
            try:
                train(task, plan, Policy(CPU, torch.float32), folder, Silent())
            finally:
                save_file(dict(task.network.state_dict()), folder / f"weights-{rank}.safetensors")

    return run_together(size, work)


def losses(folder: Path) -> list[float]:
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert sorted(found) == list(range(1, STEPS + 1)) and len([line for line in lines if "loss" in line]) == STEPS
    return [found[step] for step in sorted(found)]


def seen(folder: Path) -> list[list[int]]:
    """Return the samples of each step, the processes' shares in order."""
    shares: dict[int, dict[int, list[int]]] = {}
    for path in folder.glob("seen-*.txt"):
        for step, samples in map(json.loads, path.read_text().splitlines()):
            shares.setdefault(step, {})[int(path.stem.split("-")[1])] = samples
    return [list(chain.from_iterable(share for _, share in sorted(shares[step].items()))) for step in range(STEPS)]


def assert_same_run(folder: Path, other: Path) -> None:
    assert losses(folder) == pytest.approx(losses(other), rel=0, abs=1e-6)
    for group in ("model", "ema", "optimizer"):
        mine, theirs = (
            load_file(root / f"checkpoints/{PLAN.images:010d}/{group}.safetensors") for root in (folder, other)
        )
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert torch.allclose(tensor, theirs[name], rtol=0, atol=1e-5), f"{group}/{name}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert fit(folder, 1) == [0]
    return folder


def test_two_processes_see_the_samples_and_have_the_losses_of_one(tmp_path: Path, alone: Path) -> None:
    assert fit(tmp_path, 2) == [0, 0]
    assert seen(tmp_path) == seen(alone)
    assert_same_run(tmp_path, alone)
    mine, theirs = (load_file(tmp_path / f"weights-{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine), "both hold the same average to the bit"


def test_four_processes_that_accumulate_have_the_losses_of_one_that_does_not(tmp_path: Path, alone: Path) -> None:
    assert fit(tmp_path, 4, replace(PLAN, accumulate=2)) == [0] * 4
    assert_same_run(tmp_path, alone)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_gradients_travel_once_in_a_step_however_many_passes_it_has(tmp_path: Path, accumulate: int) -> None:
    """Counted by torch's profiler: one sum for the only bucket, one for the readings of the step."""
    plan, steps = replace(PLAN, accumulate=accumulate), 4

    def count(rank: int) -> None:
        with processes.process_group(CPU):
            stepper = Stepper(Fit(tmp_path, rank), plan, Policy(CPU, torch.float32))
            whole = np.arange(PLAN.batch_size)[rank::2]
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watched:
                for step in range(steps):
                    stepper.step(stepper.task.load(Batch(whole, whole, step * PLAN.batch_size)), step, 0)
            counts = {each.key: each.count for each in watched.key_averages()}
            found = [counts.get(name) for name in ("gloo:all_reduce", "aten::tanh_backward")]
            (tmp_path / f"{rank}.json").write_text(json.dumps(found))

    assert run_together(2, count) == [0, 0]
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [2 * steps, accumulate * steps]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_signal_to_one_process_stops_all_and_another_number_goes_on(
    tmp_path: Path, alone: Path, before: int, after: int
) -> None:
    def stop(task: Fit, rank: int) -> None:
        if rank == before - 1:
            task.after[8] = lambda: os.kill(os.getpid(), signal.SIGTERM)

    assert fit(tmp_path, before, prepare=stop) == [75] * before
    assert max(path.name for path in (tmp_path / "checkpoints").iterdir()) == f"{9 * 8:010d}"
    for path in tmp_path.glob("seen-*.txt"):
        path.unlink()  # what was read ahead
    assert fit(tmp_path, after) == [0] * after
    assert_same_run(tmp_path, alone)


def test_a_step_that_is_not_finite_in_one_process_is_skipped_in_all(tmp_path: Path) -> None:
    def harm(task: Fit, rank: int) -> None:
        if rank == 1:
            task.in_loss = {4: lambda: float("nan"), 9: lambda: float("inf")}

    assert fit(tmp_path, 2, replace(PLAN, checkpoint_every=8), harm) == [0, 0]
    state = json.loads((tmp_path / f"checkpoints/{PLAN.images:010d}/state.json").read_text())
    assert state["guard"]["skipped"] == 2 and state["ema_updates"] == STEPS - 2
    mine, theirs = (load_file(tmp_path / f"weights-{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(mine[name], theirs[name]) and mine[name].isfinite().all() for name in mine)


def broken_image() -> None:
    raise DataError("photo 3 is broken")


def defect() -> None:
    raise RuntimeError("a defect")


@pytest.mark.parametrize(
    ("where", "what", "culprit", "expected"),
    [
        ("in_load", broken_image, 1, [3, 3]),
        ("in_load", broken_image, 0, [3, 3]),
        ("in_loss", defect, 1, [1, 1]),
        ("in_loss", lambda: os._exit(9), 1, [1, 9]),
    ],
    ids=["broken image", "broken image in the main process", "defect", "killed"],
)
def test_what_ends_one_process_ends_all_and_is_reported_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], where: str, what: Any, culprit: int, expected: list[int]
) -> None:
    def harm(task: Fit, rank: int) -> None:
        if rank == culprit:
            getattr(task, where)[5] = what

    begin = time.monotonic()
    assert fit(tmp_path, 2, prepare=harm) == expected
    assert time.monotonic() - begin < 60
    reported = [line for line in capfd.readouterr().err.splitlines() if ": reported: " in line]
    if what is broken_image:
        assert reported == [f"process {culprit}: reported: photo 3 is broken"]


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert fit(tmp_path, 2, replace(PLAN, batch_size=10, accumulate=2)) == [2, 2]
    reported = [line for line in capfd.readouterr().err.splitlines() if ": reported: " in line]
    assert len(reported) == 1 and "train.batch_size=10" in reported[0] and "give a multiple of 4" in reported[0]


def test_gradients_are_averaged_in_buckets_of_any_size_and_only_in_the_last_pass(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        with processes.process_group(CPU):
            for size in (1, 30, 1 << 20):
                torch.manual_seed(0)
                network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2))
                mean = GradientMean(network, bucket_bytes=size)
                x = torch.arange(24.0).view(2, 4, 3)[rank]  # 2 passes of 2 samples
                for number, part in enumerate(x.chunk(2)):
                    if number == 1:
                        mean.sync_next_backward()
                    (network[1](network[0](part)).square().mean() / 2).backward()
                mean.wait()
                found = [parameter.grad.clone() for parameter in network[:2].parameters()]
                assert all(parameter.grad is None for parameter in network[2].parameters())
                network.zero_grad()
                network[1](network[0](torch.arange(24.0).view(8, 3))).square().mean().backward()
                for gradient, parameter in zip(found, network[:2].parameters(), strict=True):
                    assert torch.allclose(gradient, parameter.grad, rtol=1e-5)

    assert run_together(2, work) == [0, 0]


def test_rows_are_gathered_in_order_and_flags_are_those_of_the_main_process(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        with processes.process_group(CPU) as world:
            own = torch.arange(6.0).view(6, 1)[world.share(6)]
            assert torch.equal(processes.all_gather_rows(own), torch.arange(6.0).view(6, 1))
            assert processes.broadcast_flags([rank == 0, rank == 1]) == [True, False]
            assert processes.all_gather_int(rank + 7) == [7, 8, 9]
            assert float(processes.all_reduce_mean(torch.tensor([float(rank)]))) == 1.0

    assert run_together(3, work) == [0, 0, 0]


def test_one_process_alone_joins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    with processes.process_group(CPU) as world:
        assert world == processes.World() and not torch.distributed.is_initialized()
        tensor = torch.ones(2)
        assert processes.all_reduce_mean(tensor) is tensor and processes.all_gather_rows(tensor) is tensor


def test_half_an_environment_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"WORLD_SIZE is 2, but RANK, LOCAL_RANK, .*start with torchrun"):
        processes.world_from_env()
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 'two'"):
        processes.world_from_env()


@pytest.mark.parametrize("count", [0, 1, 7, 12])
def test_shares_in_order_of_rank_are_the_whole(count: int) -> None:
    shares = [list(range(count))[processes.World(rank, 3, rank).share(count)] for rank in range(3)]
    assert list(chain.from_iterable(shares)) == list(range(count))
