"""What the tests of a GPU share: a small training that can be stopped, and watches over what a GPU does.

They run on the CPU where there is no GPU, smaller, so that they are known to run; LDM_TEST_DEVICE=cuda or cpu says on
which.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from ldm.core.denoisers.dit_config import DiTConfig
from ldm.core.errors import Stopped
from ldm.core.progress import Silent
from ldm.core.system.precision import Policy, fuse_attention, make_deterministic
from ldm.core.training.loop import train
from ldm.core.training.step import Stepper
from ldm.core.training.task import Batch
from ldm.core.training.tasks.denoising import DenoisingTask
from ldm.stages.configs import TrainDiT
from ldm.stages.tools import dummy
from tests.support.plans import FEW_STEPS, replace

DEVICE = torch.device(os.environ.get("LDM_TEST_DEVICE", "cuda" if torch.cuda.is_available() else "cpu"))
ON_GPU = DEVICE.type == "cuda"
NEEDS_GPU = pytest.mark.skipif(not ON_GPU, reason="needs a GPU")
SLOW_ON_A_CPU = (lambda test: test) if ON_GPU else pytest.mark.slow
FP32, BF16 = Policy(DEVICE, torch.float32), Policy(DEVICE, torch.bfloat16)
SIDE = 16 if ON_GPU else 8
CONFIG = DiTConfig(
    latent_channels=4,
    latent_size=SIDE,
    patch_size=2,
    width=128 if ON_GPU else 32,
    depth=4 if ON_GPU else 2,
    heads=2,
    num_classes=10,
)
STEPS, BATCH = 12, 16
PLAN = replace(
    FEW_STEPS,
    images=BATCH * STEPS,
    batch_size=BATCH,
    lr=1e-3,
    warmup=0,
    decay="constant",
    weight_decay=0.0,
    checkpoint_every=BATCH * STEPS,
    keep=9,
    log_every=BATCH,
    validate_every=0,
)


Kind = TypeVar("Kind", bound=DenoisingTask)


def task_of(policy: Policy, kind: type[Kind] = DenoisingTask, compiled: bool = False) -> Kind:  # type: ignore[assignment]
    """Return the task of `ldm train-dit` on latents of no meaning."""
    latents = dummy.latents((4, SIDE, SIDE), 10, True, policy.device)
    settings = TrainDiT.model_validate({"machine": {"compile": compiled}, "preview": {"every": 0}})
    task = kind(settings, CONFIG, latents, None, policy)
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
        stepper.flush()
        found.append(stepper.meter.flush()["loss"])
    return found


@contextmanager
def deterministic() -> Iterator[None]:
    make_deterministic(DEVICE)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        fuse_attention(True)


@contextmanager
def refusing_to_wait() -> Iterator[None]:
    """Let torch raise where the program waits for the GPU."""
    if not ON_GPU:
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Interrupted(DenoisingTask):
    """A signal comes in one of the steps, counted from 1."""

    stop_at, steps = 0, 0

    def loss(self, role: str, data: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self.steps += 1
        if self.steps == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(role, data)


def run(folder: Path, policy: Policy, stop_at: int = 0) -> None:
    """Train, or go on; to the end, or up to and with a step, counted from 1."""
    folder.mkdir(exist_ok=True)
    task = task_of(policy, kind=Interrupted)
    task.stop_at = stop_at
    with pytest.raises(Stopped) if stop_at else nullcontext():
        train(task, PLAN, policy, folder, Silent())
