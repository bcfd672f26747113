"""A run that was stopped anywhere is the uninterrupted run, and what is not finite goes no further."""

import itertools
import json
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ldm.core.errors import DataError, Diverged, Stopped, UserError
from ldm.core.progress import Silent
from ldm.core.runs import checkpoint
from ldm.core.system.precision import Policy
from ldm.core.training.loop import Batch, Plan, train
from tests.support.plans import replace
from tests.support.regression import FP16, FP32, LAST, PLAN, Killed, Regression


class Noted(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def finish(folder: Path, task: Any = None, plan: Plan = PLAN, policy: Policy = FP32) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return train(task or Regression(), plan, policy, folder, Silent())


def run(folder: Path, task: Any = None, plan: Plan = PLAN, policy: Policy = FP32, stop_at: int = LAST) -> list[bool]:
    """Train up to and with a step and say which steps were accepted.

    Also after the last step it is stopped by a signal: that spares drawing the curves, which takes longer than the run.
    """
    task = task or Regression()
    task.signal_at = stop_at
    with pytest.raises(Stopped):
        finish(folder, task, plan, policy)
    return task.stepped_with


def remains(folder: Path, images: int = PLAN.images) -> dict[str, Any]:
    """What a run left behind: its last checkpoint to the bit, its lines without the speed, its pictures."""
    last = folder / "checkpoints" / f"{images:010d}"
    found: dict[str, Any] = {path.name: path.read_bytes() for path in last.iterdir()}
    found["lines"] = lines(folder)
    found["pictures"] = {path.name: path.read_text() for path in folder.glob("picture-*")}
    return found


def lines(folder: Path) -> list[dict[str, Any]]:
    read = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in read]


def newest(folder: Path) -> checkpoint.Checkpoint:
    found = checkpoint.newest(folder, lambda message: pytest.fail(message))
    assert found is not None
    return found


class SlowAtFirst(Regression):
    """Takes its time in the first step, as a compiled network does."""

    def after_step(self, accepted: bool) -> None:
        if not self.stepped_with:
            time.sleep(0.5)
        super().after_step(accepted)


def test_a_speed_is_that_since_the_line_before_so_that_they_sum_up_to_the_time_taken(tmp_path: Path) -> None:
    began = time.monotonic()
    finish(tmp_path / "run", SlowAtFirst())
    taken = time.monotonic() - began
    logged = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    speeds = {line["images"]: line["images_per_second"] for line in logged if "images_per_second" in line}
    seconds = [(images - before) / speeds[images] for before, images in itertools.pairwise([0, *speeds])]
    assert len(seconds) > 2 and seconds[0] >= 0.49 and sum(seconds) <= 1.01 * taken


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert finish(folder) == {"images_seen": 28, "steps": 7, "skipped_steps": 0}
    return folder


def test_a_run_learns(tmp_path: Path) -> None:
    plan = replace(PLAN, images=160, lr=0.03, log_every=40, checkpoint_every=0, validate_every=0, picture_every=0)
    run(tmp_path, plan=plan, stop_at=39)
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert len(losses) == 4 and losses[-1] < losses[0] / 2


def test_a_run_writes_each_line_once(uninterrupted: Path) -> None:
    written = lines(uninterrupted)
    training = [line for line in written if "loss" in line]
    validation = [line for line in written if "val_loss" in line]
    assert [line["images"] for line in training] == [8, 16, 24, 28]
    assert [line["images"] for line in validation] == [0, 12, 16, 24, 28]
    assert {"lr", "grad_norm", "largest", "skipped", "step"} <= training[0].keys()
    assert sorted(path.name for path in uninterrupted.iterdir()) == [
        "checkpoints",
        "loss.png",
        "metrics.jsonl",
        "picture-0.txt",
        "picture-16.txt",
        "picture-28.txt",
    ]


@pytest.mark.parametrize("step", range(LAST))
def test_a_run_stopped_by_a_signal_at_any_step_goes_on_to_the_bit(
    tmp_path: Path, uninterrupted: Path, step: int
) -> None:
    task = Regression()
    task.signal_at = step
    with pytest.raises(Stopped, match=rf"stopped by SIGTERM after {4 * step + 4} images; a checkpoint is in") as caught:
        finish(tmp_path, task)
    assert caught.value.exit_code == 75
    assert len(task.stepped_with) == step + 1, "it stopped within the step"
    assert newest(tmp_path).state["images"] == 4 * step + 4
    assert len(run(tmp_path)) == LAST - step, "no step was done twice"
    assert remains(tmp_path) == remains(uninterrupted)


@pytest.mark.parametrize("step", range(LAST + 1))
def test_a_run_killed_at_any_step_loses_no_more_than_the_work_since_its_last_checkpoint(
    tmp_path: Path, uninterrupted: Path, step: int
) -> None:
    task = Regression()
    task.kill_at = step
    with pytest.raises(Killed):
        finish(tmp_path, task)
    saved = 4 * step // 12 * 3  # a checkpoint every three steps
    assert len(run(tmp_path)) == 7 - saved
    assert remains(tmp_path) == remains(uninterrupted)


def test_a_run_stopped_at_its_last_step_finishes_without_another_and_hands_out_the_average(
    tmp_path: Path, uninterrupted: Path
) -> None:
    run(tmp_path)
    task = Regression()
    assert finish(tmp_path, task) == {"images_seen": 28, "steps": 7, "skipped_steps": 0}
    assert task.stepped_with == []
    assert remains(tmp_path) == remains(uninterrupted)
    averages = load_file(tmp_path / "checkpoints" / "0000000028" / "ema.safetensors")
    weights = load_file(tmp_path / "checkpoints" / "0000000028" / "model.safetensors")
    assert all(torch.equal(task.network.state_dict()[name], tensor) for name, tensor in averages.items())
    assert not torch.equal(weights["0.weight"], averages["0.weight"])


def test_how_often_a_run_saves_changes_nothing_else(tmp_path: Path, uninterrupted: Path) -> None:
    run(tmp_path, plan=replace(PLAN, checkpoint_every=4, keep=3))
    assert remains(tmp_path) == remains(uninterrupted)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [f"00000000{n}" for n in (20, 24, 28)]


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(tmp_path: Path, uninterrupted: Path) -> None:
    run(tmp_path, stop_at=4)
    damaged = tmp_path / "checkpoints" / "0000000020" / "ema.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    again, progress = Regression(), Noted()
    again.signal_at = LAST
    with pytest.raises(Stopped):
        train(again, PLAN, FP32, tmp_path, progress)
    assert len(progress.warnings) == 1 and str(damaged) in progress.warnings[0]
    assert len(again.stepped_with) == 4, "it went on from 12 images"
    assert remains(tmp_path) == remains(uninterrupted)


@pytest.mark.parametrize("kind", ["nan_loss", "nan_gradient"])
def test_a_step_that_is_not_finite_is_skipped_before_optimizer_and_average_and_counted(
    tmp_path: Path, kind: str
) -> None:
    task = Regression()
    setattr(task, kind, {1, 4, 5})
    accepted = run(tmp_path, task, replace(PLAN, checkpoint_every=4, keep=9))
    assert accepted == [True, False, True, True, False, False, True]
    found = [load_all(tmp_path, 4 * step + 4) for step in range(7)]
    for step in (1, 4, 5):
        assert_equal(found[step], found[step - 1])
    assert not torch.equal(found[2]["model/0.weight"], found[1]["model/0.weight"])
    assert newest(tmp_path).state["ema_updates"] == 4
    assert all(bool(torch.isfinite(tensor).all()) for tensors in found for tensor in tensors.values())
    training = [line for line in lines(tmp_path) if "skipped" in line]
    assert [line["skipped"] for line in training] == [1, 1, 3, 3]


def load_all(folder: Path, images: int) -> dict[str, torch.Tensor]:
    path = folder / "checkpoints" / f"{images:010d}"
    groups = {group: load_file(path / f"{group}.safetensors") for group in ("model", "ema", "optimizer")}
    return {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_twenty_skipped_steps_end_the_run_and_the_last_checkpoint_is_finite(tmp_path: Path) -> None:
    plan = replace(PLAN, images=400, checkpoint_every=20, validate_every=0, picture_every=0)
    task = Regression()
    task.nan_loss = set(range(7, 100))
    with pytest.raises(Diverged, match="20 were not finite") as caught:
        run(tmp_path, task, plan, stop_at=100)
    assert caught.value.exit_code == 4 and task.step == 26
    found = newest(tmp_path)
    assert all(bool(torch.isfinite(t).all()) for tensors in found.groups.values() for t in tensors.values())
    assert found.state["guard"]["skipped"] == 18

    again = Regression()
    again.nan_loss = task.nan_loss
    with pytest.raises(Diverged):
        run(tmp_path, again, plan, stop_at=100)
    assert len(again.stepped_with) == 1, "the count goes on where it was"


def test_buffers_that_became_nan_are_not_saved(tmp_path: Path) -> None:
    """Batch statistics take in a bad batch before any loss is known."""

    class Normalised(Regression):
        def __init__(self) -> None:
            super().__init__()
            self.network.insert(0, nn.BatchNorm1d(3))

        def load(self, batch: Batch) -> Any:
            x, y, step = super().load(batch)
            return x * (float("nan") if step == 4 else 1), y, step

    with pytest.raises(Diverged, match=r"0\.running_mean \(model\) is no longer finite"):
        run(tmp_path, Normalised())
    assert newest(tmp_path).state["images"] == 12


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulating_equals_one_pass(tmp_path: Path, uninterrupted: Path, parts: int) -> None:
    run(tmp_path, plan=replace(PLAN, accumulate=parts))
    whole, split = load_all(uninterrupted, 28), load_all(tmp_path, 28)
    assert whole.keys() == split.keys()
    for name, tensor in whole.items():
        assert torch.allclose(split[name], tensor, rtol=0, atol=1e-6), name
    for mine, theirs in zip(lines(tmp_path), lines(uninterrupted), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)


class Game(Regression):
    """Two networks: the second learns to tell the first one's output from the truth."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Linear(2, 1)
        self.networks = {"regressor": self.network, "critic": self.critic}
        self.modules = nn.ModuleDict(self.networks)
        self.nan_critic: set[int] = set()

    def loss(self, role: str, data: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if role == "regressor":
            loss, details = super().loss(role, data)
            return loss - 0.01 * self.critic(self.network(data[0])).mean(), details
        loss = self.critic(self.network(data[0]).detach()).sigmoid().mean()
        return loss * (float("nan") if data[2] in self.nan_critic else 1.0), {}


def test_a_run_of_two_networks_goes_on_to_the_bit(tmp_path: Path) -> None:
    for step in (1, 4):
        run(tmp_path / "stopped", Game(), stop_at=step)
    run(tmp_path / "stopped", Game())
    run(tmp_path / "whole", Game())
    assert remains(tmp_path / "stopped") == remains(tmp_path / "whole")
    assert {"loss", "grad_norm", "critic_loss", "critic_grad_norm"} <= lines(tmp_path / "whole")[1].keys()
    assert "critic.weight.exp_avg" in load_file(tmp_path / "whole/checkpoints/0000000028/optimizer.safetensors")


def test_a_step_in_which_both_networks_fail_counts_once(tmp_path: Path) -> None:
    task = Game()
    task.nan_loss, task.nan_critic = {2, 3}, {3, 5}
    assert run(tmp_path, task) == [True, True, False, False, True, False, True]
    state = newest(tmp_path).state
    assert state["guard"]["skipped"] == 3 and state["ema_updates"] == 4


class Steep(Regression):
    """Gradients of about 8 on the scale of fp16, so that a scale of 65536 is too large at first."""

    def loss(self, role: str, data: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, details = super().loss(role, data)
        return 20 * loss, details


def test_a_scaler_looking_for_its_scale_neither_counts_as_failing_nor_moves_the_average(tmp_path: Path) -> None:
    plan = replace(PLAN, checkpoint_every=4, keep=9)
    task = Steep()
    overshot = run(tmp_path, task, plan, FP16).count(False)
    assert 0 < overshot < 7
    state = newest(tmp_path).state
    assert state["guard"]["skipped"] == 0 and state["ema_updates"] == 7 - overshot
    assert state["scaler"]["scale"] == 65536 / 2**overshot
    assert_equal(
        {k: v for k, v in load_all(tmp_path, 4).items() if k.startswith("model")},
        {f"model/{k}": v for k, v in Steep().network.state_dict().items()},
    )


def test_nan_under_a_scaler_is_counted_and_the_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    def steep() -> Steep:
        task = Steep()
        task.nan_loss = {3, 5}
        return task

    run(tmp_path / "whole", steep(), policy=FP16)
    assert newest(tmp_path / "whole").state["guard"]["skipped"] == 2
    run(tmp_path / "stopped", steep(), policy=FP16, stop_at=4)
    run(tmp_path / "stopped", steep(), policy=FP16)
    assert remains(tmp_path / "stopped") == remains(tmp_path / "whole")


def test_a_run_begun_without_a_scaler_goes_on_with_one(tmp_path: Path) -> None:
    run(tmp_path, stop_at=2)
    assert len(run(tmp_path, policy=FP16)) == 4


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 200, 1_000, 6_000, 12_000])
def test_a_full_disk_is_named_and_costs_no_more_than_a_kill(tmp_path: Path, size: int) -> None:
    """Whether metrics.jsonl, a small file of the checkpoint, a large one or only the last picture is too much."""

    def task() -> Regression:
        return Regression(extra_weights=2_000)

    run(tmp_path / "full", task(), stop_at=2)
    with pytest.raises(UserError, match=r"^disk: cannot write .*full.*: file too large \(free"), file_size_limit(size):
        finish(tmp_path / "full", task())
    assert newest(tmp_path / "full").state["images"] >= 12
    finish(tmp_path / "full", task()) if size == 12_000 else run(tmp_path / "full", task())
    assert not list((tmp_path / "full").rglob(".tmp*"))
    run(tmp_path / "whole", task())
    assert remains(tmp_path / "full") == remains(tmp_path / "whole")


def test_an_error_in_reading_ahead_ends_the_run_as_itself(tmp_path: Path) -> None:
    class Broken(Regression):
        def load(self, batch: Batch) -> Any:
            if batch.images_seen == 16:
                raise DataError("photo 3 is broken")
            return super().load(batch)

    with pytest.raises(DataError, match="photo 3 is broken"):
        run(tmp_path, Broken())
    assert newest(tmp_path).state["images"] == 12


def test_every_batch_is_the_next_slice_of_the_stream(tmp_path: Path) -> None:
    class Watched(Regression):
        seen: list[Batch]

        def load(self, batch: Batch) -> Any:
            self.seen.append(batch)
            return super().load(batch)

    task = Watched()
    task.seen = []
    run(tmp_path, task)
    assert np.array_equal(np.concatenate([batch.positions for batch in task.seen]), np.arange(28))
    assert [batch.images_seen for batch in task.seen] == list(range(0, 28, 4))
    epochs = np.concatenate([batch.samples for batch in task.seen])[:20].reshape(2, 10)
    assert np.array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (2, 1)))


class Finished(Regression):
    """Asks for the end after the third step, as `kill -USR2` does."""

    def after_step(self, accepted: bool) -> None:
        super().after_step(accepted)
        if len(self.stepped_with) == 3:
            os.kill(os.getpid(), signal.SIGUSR2)


def test_a_training_that_is_proposed_to_finish_ends_as_one_that_was_asked_for_no_more(tmp_path: Path) -> None:
    early = finish(tmp_path / "early", Finished())
    asked = replace(PLAN, images=3 * PLAN.batch_size)
    assert early == finish(tmp_path / "asked", plan=asked)
    assert lines(tmp_path / "early") == lines(tmp_path / "asked")
    ours, theirs = newest(tmp_path / "early"), newest(tmp_path / "asked")
    assert ours.path.name == theirs.path.name
    for name in ("model", "ema"):
        first, second = (load_file(found.path / f"{name}.safetensors") for found in (ours, theirs))
        assert first.keys() == second.keys() and all((first[key] == second[key]).all() for key in first)


def test_a_training_that_ended_on_a_signal_stays_ended_until_more_is_asked_for(tmp_path: Path) -> None:
    early = finish(tmp_path, Finished())
    assert early["images_seen"] == 3 * PLAN.batch_size and finish(tmp_path) == early
    more = finish(tmp_path, plan=replace(PLAN, images=PLAN.images + PLAN.batch_size))
    assert more["images_seen"] == PLAN.images + PLAN.batch_size


def test_a_checkpoint_is_written_when_the_last_one_is_old_whatever_its_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rarely = replace(PLAN, checkpoint_every=1 << 30, keep=100)
    finish(tmp_path / "rarely", plan=rarely)
    assert len([*(tmp_path / "rarely" / "checkpoints").iterdir()]) == 1
    monkeypatch.setattr("ldm.core.training.state._LONGEST_UNSAVED", -1.0)
    finish(tmp_path / "often", plan=rarely)
    logged = {line["images"] for line in lines(tmp_path / "often") if "loss" in line}
    assert {int(path.name) for path in (tmp_path / "often" / "checkpoints").iterdir()} == logged
    assert lines(tmp_path / "often") == lines(tmp_path / "rarely")
