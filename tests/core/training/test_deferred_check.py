"""Where the device runs behind the program, a step's finite check is read during the next one: nothing else changes,
and no step waits. Here the CPU does as a GPU does."""

import json
import os
import signal
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ldm.core.denoisers import registry
from ldm.core.denoisers.dit_config import DiTConfig
from ldm.core.diffusion import objective as objectives
from ldm.core.diffusion.schedules import schedule
from ldm.core.distributed import processes
from ldm.core.errors import Diverged, Stopped
from ldm.core.progress import Silent
from ldm.core.runs.weights import without_draws
from ldm.core.system.precision import Policy
from ldm.core.training.loop import Plan, train
from ldm.core.training.step import Stepper
from tests.support.plans import replace
from tests.support.regression import FP32, PLAN, Regression
from tests.support.several import run_together

LONG = replace(PLAN, images=80, checkpoint_every=20, log_every=12, keep=9, validate_every=0, picture_every=0)


class Meta(Policy):
    """Tensors without values, which autocast does not support."""

    def autocast(self) -> AbstractContextManager[object]:
        return nullcontext()


class Task(Regression):
    """The regression; a signal comes while a step's passes run, whenever its finite check is read."""

    synchronous = False

    def loss(self, role: str, data: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if data[2] == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(role, data)

    def after_step(self, accepted: bool) -> None:
        self.stepped_with.append(accepted)


def run(folder: Path, defer_check: bool, plan: Plan = LONG, stop_at: int = 19, **how: Any) -> list[bool]:
    """Train up to and with a step, and say which were accepted."""
    folder.mkdir(exist_ok=True)
    task = Task()
    task.signal_at = stop_at
    for name, value in how.items():
        setattr(task, name, value)
    with pytest.raises(Stopped):
        train(task, plan, FP32, folder, Silent(), defer_check=defer_check)
    return task.stepped_with


def remains(folder: Path) -> dict[str, Any]:
    """Every checkpoint to the bit, and every line without the speed."""
    found: dict[str, Any] = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in (folder / "checkpoints").glob("*/*")
    }
    read = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    found["lines"] = [{key: value for key, value in line.items() if key != "images_per_second"} for line in read]
    return found


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", ["nan_loss", "nan_gradient"])
def test_deferring_the_check_changes_no_bit_whichever_steps_are_skipped(
    tmp_path: Path, kind: str, accumulate: int, optimizer: Literal["adamw", "muon"]
) -> None:
    plan = replace(LONG, accumulate=accumulate, optimizer=optimizer, weight_decay=0.1)
    failing = {kind: {0, 3, 4, 5, 9, 14}}
    accepted = run(tmp_path / "at once", False, plan, **failing)
    assert run(tmp_path / "deferred", True, plan, **failing) == accepted
    assert accepted == [step not in failing[kind] for step in range(20)]
    deferred = remains(tmp_path / "deferred")
    assert deferred == remains(tmp_path / "at once") and len(deferred) > 20
    assert [line["skipped"] for line in deferred["lines"] if "skipped" in line] == [1, 4, 4, 5, 6, 6, 6]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("step", [0, 4, 5, 8])
def test_a_run_with_deferred_checks_goes_on_to_the_bit_wherever_it_was_stopped(
    tmp_path: Path, step: int, optimizer: Literal["adamw", "muon"]
) -> None:
    plan, failing = replace(LONG, optimizer=optimizer), {"nan_gradient": {4, 5}}
    run(tmp_path / "whole", True, plan, **failing)
    run(tmp_path / "stopped", True, plan, stop_at=step, **failing)
    run(tmp_path / "stopped", step % 2 == 0, plan, **failing)
    whole, stopped = remains(tmp_path / "whole"), remains(tmp_path / "stopped")
    assert {name: stopped[name] for name in whole} == whole


def test_twenty_skipped_steps_end_a_run_with_deferred_checks(tmp_path: Path) -> None:
    task = Task()
    task.nan_loss = set(range(7, 100))
    with pytest.raises(Diverged, match="20 were not finite") as caught:
        train(task, replace(LONG, images=400), FP32, tmp_path, Silent(), defer_check=True)
    assert caught.value.exit_code == 4 and task.step in (26, 27), "at the latest during the next step"
    newest = max((tmp_path / "checkpoints").iterdir())
    for path in newest.glob("*.safetensors"):
        assert all(bool(tensor.isfinite().all()) for tensor in load_file(path).values())


def test_two_processes_with_deferred_checks_end_as_two_without(tmp_path: Path) -> None:
    def train_both(rank: int) -> None:
        with processes.process_group(torch.device("cpu")):
            for defer_check in (False, True):
                task = Task()
                task.nan_gradient = {3} if rank == 1 else set()
                folder = tmp_path / str(defer_check)
                folder.mkdir(exist_ok=True)
                train(task, replace(LONG, images=40), FP32, folder, Silent(), defer_check=defer_check)

    assert run_together(2, train_both) == [0, 0]
    assert remains(tmp_path / "True") == remains(tmp_path / "False")
    assert remains(tmp_path / "True")["lines"][-2]["skipped"] == 1


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_reads_no_number_from_the_device(optimizer: Literal["adamw", "muon"]) -> None:
    """Fake tensors have no values: whoever asks for one, as `float` and `if` do, is refused."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        task = Task()
        stepper = Stepper(task, replace(LONG, optimizer=optimizer, weight_decay=0.1), FP32, defer_check=True)
        x = torch.empty(4, 3)
        stepper.step((x, torch.empty(4, 2), 0), 0, 0)
        assert len(stepper.optimizers["regressor"].state) == 4, "the optimizer has stepped"
        with pytest.raises(Exception, match="_local_scalar_dense"):
            stepper.flush()


def test_the_passes_of_a_denoiser_read_no_number_from_the_device() -> None:
    config = DiTConfig(latent_channels=4, latent_size=8, patch_size=2, width=32, depth=2, heads=2, num_classes=3)

    class Denoising:
        synchronous, num_samples = False, 4

        def __init__(self, objective: objectives.Objective) -> None:
            with without_draws():
                self.network = registry.build(config).to("meta")
            self.modules: nn.Module = self.network
            self.averaged: nn.Module = self.network
            self.networks: dict[str, nn.Module] = {"denoiser": self.network}
            self.objective = objective

        def loss(self, role: str, data: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return self.objective.loss(self.network, *data).mean(), {}

    x, t = torch.empty(4, 4, 8, 8, device="meta"), torch.empty(4, device="meta")
    labels = torch.empty(4, dtype=torch.int64, device="meta")
    for objective in (
        objectives.Denoising(schedule("cosine")),
        objectives.Denoising(schedule("rectified-flow"), "flow", "flow"),
    ):
        stepper = Stepper(Denoising(objective), LONG, Meta(torch.device("meta"), torch.float32), defer_check=False)
        numbers = stepper._forward_backward("denoiser", [(x, {"noise": x, "t": t}, {"labels": labels})])
        assert numbers is not None and numbers.values.shape == (2,)
        with pytest.raises(RuntimeError, match="meta"):
            numbers.values.tolist()
