"""The training loop that all trained stages share. Its clock is images seen.

A task brings the networks, the batches and the losses; the loop brings order, optimizers, moving average, the finite
check, records, checkpoints and stopping. What happens at stream position k is a function of the seed and k alone, so
a resumed run is the uninterrupted run. Several processes share every batch, each taking the positions of its rank:
gradients and numbers are the means over all, so that each holds the same weights, and the first one alone writes.
"""

import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from .. import parallel
from ..data.order import stream
from ..errors import ConfigError, DataError, Stopped
from ..facts import first_wrong
from ..precision import Policy
from ..progress import Progress
from ..signals import StopFlag, stop_flag
from ..weights import require_fit
from . import checkpoint, record
from .averaging import GradientMean
from .ema import EMA
from .guard import FiniteGuard
from .optim import OptimConfig, build_adamw, clip_gradients, learning_rate, load_optimizer_state, optimizer_state


@dataclass(frozen=True)
class Plan:
    """How long and how to train: the fields of the user's `train` section, and the seed."""

    images: int
    batch_size: int
    accumulate: int
    lr: float
    warmup: int
    decay: str
    weight_decay: float
    beta1: float
    beta2: float
    clip: float
    ema: float
    checkpoint_every: int
    keep: int
    log_every: int
    validate_every: int
    tensorboard: bool
    seed: int
    picture_every: int = 0


@dataclass(frozen=True)
class Batch:
    """Which samples a process takes in a step, and their positions in the stream, from which their draws follow."""

    samples: np.ndarray
    positions: np.ndarray
    images_seen: int


class Task(Protocol):
    """What is trained. `modules` holds every tensor that a checkpoint keeps; `averaged` is what the EMA follows."""

    modules: nn.Module
    averaged: nn.Module
    num_samples: int
    players: dict[str, nn.Module]  # one optimizer each, stepped in this order

    def load(self, batch: Batch) -> Any:
        """Return the batch's tensors, on the CPU; called ahead of time in a thread."""

    def loss(self, player: str, data: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return a player's mean loss over the data, and numbers to log; without gradient, the player sits out."""

    def split(self, data: Any, parts: int) -> list[Any]:
        """Split a batch's tensors into equal parts, for accumulation."""

    def stepped(self, accepted: bool) -> None:
        """Called after every step; `accepted` unless its losses or gradients were not finite and it was skipped."""

    def validate(self) -> dict[str, float]:
        """Return numbers on held-out samples; `averaged` holds the moving average meanwhile."""

    def picture(self, folder: Path, images_seen: int) -> None:
        """Write a picture of the present state; `averaged` holds the moving average meanwhile."""


def train(task: Task, plan: Plan, policy: Policy, folder: Path, progress: Progress) -> dict[str, Any]:
    """Train until `plan.images` images were seen, from the newest checkpoint in `folder` if there is one.

    Leaves `averaged` holding the moving average. Returns facts for the manifest. Raises Diverged, and Stopped after
    a checkpoint when a signal asks for it. Raises ConfigError for a batch that does not split into equal shares.
    """
    _check_shares(plan)
    session = _Session(task, plan, policy, folder, progress)
    progress.start("training", plan.images, "images", done=session.images)
    with stop_flag() as stop:
        if session.images == 0:
            session.evaluate(picture=True)
        with closing(session.batches()) as batches:
            for data in batches:
                session.step(data)
                session.after_step(stop)
        session.finish()
        if parallel.heed(stop):
            raise session.stopped(stop)
    progress.finish()
    return {"images_seen": session.images, "steps": session.steps, "skipped_steps": session.guard.skipped}


def _check_shares(plan: Plan) -> None:
    size = parallel.world().size
    if plan.batch_size % (size * plan.accumulate):
        raise ConfigError(
            f"train.batch_size is {plan.batch_size}, which {size} processes in {plan.accumulate} passes cannot share",
            f"give a multiple of {size * plan.accumulate}",
        )


class _Session:
    """The state of one training run over time."""

    def __init__(self, task: Task, plan: Plan, policy: Policy, folder: Path, progress: Progress) -> None:
        self.task, self.plan, self.policy, self.folder, self.progress = task, plan, policy, folder, progress
        self.world = parallel.world()
        parallel.follow_leader(task.modules.state_dict().values())
        self.optim = OptimConfig(
            lr=plan.lr,
            weight_decay=plan.weight_decay,
            betas=(plan.beta1, plan.beta2),
            warmup_images=plan.warmup,
            decay=plan.decay,
            clip=plan.clip,
        )
        self.optimizers = {name: build_adamw(module, self.optim) for name, module in task.players.items()}
        self.means = {name: GradientMean(module) for name, module in task.players.items()}
        self.ema = EMA(task.averaged, plan.ema)
        self.guard, self.meter = FiniteGuard(), record.Meter()
        self.scaler = torch.amp.GradScaler(policy.device.type, enabled=policy.needs_scaler)
        self.images = self.steps = 0
        self._resume()
        if self.world.leads:
            mirror = record.tensorboard_mirror(folder) if plan.tensorboard else None
            self.record = record.Record(folder, self.images or -1, mirror)
        self.started, self.started_at = time.monotonic(), self.images

    def batches(self) -> Generator[Any, None, None]:
        """Yield the tensors of every step still to do; the next batch is loaded while this one is used."""
        share = self.world.share(self.plan.batch_size)

        def load(start: int) -> Any:
            positions = np.arange(start, start + self.plan.batch_size)[share]
            samples = stream(self.plan.seed, start, start + self.plan.batch_size, self.task.num_samples)[share]
            return self.task.load(Batch(samples, positions, start))

        starts = range(self.images, self.plan.images, self.plan.batch_size)
        with ThreadPoolExecutor(1, thread_name_prefix="next-batch") as pool:
            pending: Future[Any] | None = None
            for start in starts:
                data = pending.result() if pending is not None else load(start)
                following = start + self.plan.batch_size
                pending = pool.submit(load, following) if following < self.plan.images else None
                parallel.exchange()  # Nobody begins a step that another could not load.
                yield data

    def step(self, data: Any) -> None:
        """Let every player take one optimizer step, up to the first that is not finite: the step ends there."""
        numbers = {"lr": learning_rate(self.optim, self.images, self.plan.images)}
        parts = self.task.split(data, self.plan.accumulate) if self.plan.accumulate > 1 else [data]
        self.task.modules.train()
        finite = all(self._turn(player, parts, numbers) for player in self.optimizers)
        self.task.stepped(finite)
        if finite:
            self.ema.update()
            self.meter.add(numbers)

    def _turn(self, player: str, parts: list[Any], numbers: dict[str, float]) -> bool:
        """Take one player's optimizer step unless it is not finite; say whether, and add to the numbers to log."""
        optimizer, gradients = self.optimizers[player], self.means[player]
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.policy.device)
        sums: dict[str, float] = {}
        for number, part in enumerate(parts, 1):
            with self.policy.autocast():
                loss, details = self.task.loss(player, part)
            if not loss.requires_grad:
                return True
            if number == len(parts):
                gradients.expect()
            self.scaler.scale(loss / len(parts)).backward()
            total += loss.detach() / len(parts)
            for name, value in details.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / len(parts)
        gradients.finish()
        if self.world.size > 1:
            total, sums = _means(total, sums)
        numbers |= sums
        self.scaler.unscale_(optimizer)
        norm = clip_gradients(optimizer, self.optim)
        # A scaler finds its scale by overshooting: inf under a large one is its own affair, not divergence.
        searching = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        overshot = searching and bool(torch.isfinite(total)) and not bool(torch.isfinite(norm))
        finite = not overshot and self.guard.admit(self.steps, total, norm)
        if finite:
            for group in optimizer.param_groups:
                group["lr"] = numbers["lr"]
            self.scaler.step(optimizer)
            label = "loss" if player == next(iter(self.optimizers)) else f"{player}_loss"
            numbers |= {label: float(total), f"{label.removesuffix('loss')}grad_norm": float(norm)}
        self.scaler.update()
        return finite

    def after_step(self, stop: StopFlag) -> None:
        """Advance the clock; log, validate, draw and save where an interval was passed; stop if asked to."""
        before, self.images, self.steps = self.images, self.images + self.plan.batch_size, self.steps + 1

        def passed(every: int) -> bool:
            return every > 0 and self.images // every > before // every

        done, stopping = self.images >= self.plan.images, parallel.heed(stop)
        if passed(self.plan.log_every) or done:
            self._log()
        if passed(self.plan.validate_every) or done or passed(self.plan.picture_every):
            self.evaluate(picture=passed(self.plan.picture_every) or done)
        if passed(self.plan.checkpoint_every) or done or stopping:
            self._save()
        if stopping:
            raise self.stopped(stop)

    def evaluate(self, picture: bool) -> None:
        """Validate, and draw, with the moving average in place of the weights."""
        if not self.world.leads:
            return
        self.task.modules.eval()
        with self.ema.applied(), torch.no_grad():
            numbers = self.task.validate()
            if picture and self.plan.picture_every:
                self.task.picture(self.folder, self.images)
        self.record.add({"images": self.images, "step": self.steps, **numbers})
        if picture and self.steps:  # Before the first step there is no curve yet.
            record.write_curves(self.folder)
        self.progress.update(self.images, **numbers)

    def stopped(self, stop: StopFlag) -> Stopped:
        """Return the error that ends the training where it was just saved."""
        return stop.stopped(f"after {self.images:,} images; a checkpoint is in {self.folder / checkpoint.FOLDER}")

    def finish(self) -> None:
        """Put the moving average in place for good."""
        self.ema.copy_to(self.task.averaged)
        self.task.modules.eval()

    def _log(self) -> None:
        speed = (self.images - self.started_at) / max(time.monotonic() - self.started, 1e-9)
        means = self.meter.flush()
        if not self.world.leads:
            return
        line = {"images": self.images, "step": self.steps, **means, "skipped": self.guard.skipped}
        self.record.add({**line, "images_per_second": round(speed, 1)})
        self.progress.update(self.images, **{key: means[key] for key in ("loss",) if key in means})

    def _save(self) -> None:
        if not self.world.leads:
            return
        optimizers = {
            f"{player}.{name}": tensor
            for player, optimizer in self.optimizers.items()
            for name, tensor in optimizer_state(optimizer, self.task.players[player]).items()
        }
        groups = {"model": self.task.modules.state_dict(), "ema": self.ema.state(), "optimizer": optimizers}
        state = {
            "images": self.images,
            "steps": self.steps,
            "guard": self.guard.state(),
            "meter": self.meter.state(),
            "scaler": self.scaler.state_dict(),
            "ema_updates": self.ema.num_updates,
        }
        checkpoint.save(self.folder, self.images, groups, state, self.plan.keep)

    def _resume(self) -> None:
        found = self._newest()
        if found is None:
            return
        remedy = f"remove {self.folder / checkpoint.FOLDER}, which is of another network, to start afresh"
        _require_whole(found, remedy)
        require_fit(self.task.modules, found.groups["model"], found.path, remedy)
        self.task.modules.load_state_dict(found.groups["model"])
        self.ema.load(found.groups["ema"], found.state["ema_updates"])
        for player, optimizer in self.optimizers.items():
            own = {
                key.removeprefix(f"{player}."): t
                for key, t in found.groups["optimizer"].items()
                if key.startswith(f"{player}.")
            }
            load_optimizer_state(optimizer, self.task.players[player], own)
        self.images, self.steps = found.state["images"], found.state["steps"]
        self.guard.load(found.state["guard"])
        self.meter.load(found.state["meter"])
        if found.state["scaler"]:  # It is empty where the run began on a device that needs none.
            self.scaler.load_state_dict(found.state["scaler"])
        self.progress.note(f"resuming after {self.images:,} images from {found.path}")

    def _newest(self) -> checkpoint.Checkpoint | None:
        """Find the checkpoint to go on from; the first process chooses it."""
        found = checkpoint.newest(self.folder, self.progress.warn) if self.world.leads else None
        there, images = parallel.exchange(int(found is not None), int(found.path.name) if found else 0)[0]
        if there and found is None:
            found = checkpoint.load(checkpoint.path_of(self.folder, images))
        return found


class _Numbers(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Guard(_Numbers):
    skipped: int
    recent: list[int]


class _Meter(_Numbers):
    sums: dict[str, float]
    counts: dict[str, Annotated[int, Field(ge=1)]]


class _State(_Numbers):
    """What a checkpoint keeps beside tensors."""

    images: Annotated[int, Field(ge=0, lt=2**62)]
    steps: Annotated[int, Field(ge=0, lt=2**62)]
    guard: _Guard
    meter: _Meter
    scaler: dict[str, float]
    ema_updates: Annotated[int, Field(ge=0, lt=2**62)]


def _require_whole(found: checkpoint.Checkpoint, remedy: str) -> None:
    """Raise DataError for a checkpoint that is what was written, and is none of a training."""
    wrong = first_wrong(_State, found.state)
    if wrong is None and found.state["meter"]["sums"].keys() != found.state["meter"]["counts"].keys():
        wrong = "meter: its sums and counts are of different numbers"
    if wrong is not None:
        raise DataError(f"{found.path / checkpoint.STATE} is damaged: {wrong}", remedy)
    missing = {"model", "ema", "optimizer"} - found.groups.keys()
    if missing:
        raise DataError(f"{found.path} has no {min(missing)}.safetensors", remedy)


def _means(total: torch.Tensor, sums: dict[str, float]) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the means over the processes of a loss and of numbers to log, in one transfer."""
    numbers = torch.tensor(list(sums.values()), dtype=torch.float64)
    mean = parallel.mean(torch.cat([total.double().reshape(1), numbers.to(total.device)]))
    return mean[0].float(), dict(zip(sums, mean[1:].tolist(), strict=True))
