"""A training small enough to be stopped, harmed and repeated dozens of times: a regression on ten noisy points."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ldm.core import seeds
from ldm.core.system.precision import Policy
from ldm.core.system.transfer import split_batch
from ldm.core.training.loop import Batch
from tests.support.plans import FEW_STEPS, replace

PLAN = replace(FEW_STEPS, picture_every=16)
FP32 = Policy(torch.device("cpu"), torch.float32)
FP16 = Policy(torch.device("cpu"), torch.float16)
LAST = 6  # step


class Regression:
    """Fit a small network to noisy points. What happens at which step can be set, counted from 0 over the whole run."""

    num_samples = 10

    def __init__(self, extra_weights: int = 0) -> None:
        seeds.seed_everything(PLAN.seed, "weights")
        self.network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
        if extra_weights:
            self.network.register_buffer("ballast", torch.zeros(extra_weights))
        self.modules: nn.Module = self.network
        self.averaged: nn.Module = self.network
        self.networks: dict[str, nn.Module] = {"regressor": self.network}
        self.points = seeds.normal(0, "points", range(self.num_samples), (3,))
        self.step = 0
        self.nan_loss: set[int] = set()
        self.nan_gradient: set[int] = set()
        self.kill_at: int | None = None
        self.signal_at: int | None = None
        self.stepped_with: list[bool] = []

    def load(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, int]:
        x = self.points[batch.samples] + 0.1 * seeds.normal(PLAN.seed, "noise", batch.positions, (3,))
        return x, torch.stack([x.sum(1), x.prod(1)], dim=1), batch.images_seen // PLAN.batch_size

    def split(self, data: Any, parts: int) -> list[Any]:
        return split_batch(data, parts)

    def loss(self, role: str, data: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x, y, self.step = data
        loss = (self.network(x).float() - y).square().mean()
        details = {"largest": x.abs().mean()}
        if self.step in self.nan_loss:
            loss = loss * float("nan")
        if self.step in self.nan_gradient:
            loss = loss + (0 * self.network[0].weight.sum()).abs().sqrt()
        return loss, details

    def after_step(self, accepted: bool) -> None:
        self.stepped_with.append(accepted)
        if self.step == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if self.step == self.kill_at:
            raise Killed

    def validate(self) -> dict[str, float]:
        with torch.no_grad():
            return {"val_loss": float(self.network(self.points).square().mean())}

    def picture(self, folder: Path, images_seen: int) -> None:
        assert not self.network.training
        (folder / f"picture-{images_seen}.txt").write_text(str(self.network(self.points).sum().item()))


class Killed(Exception):  # noqa: N818
    """Ends a run without another word, as SIGKILL would: nothing on the way out writes anything."""
