"""The training loop that all trained stages share. Its clock is images seen.

A task brings the networks, the batches and the losses; the loop brings order, optimizers, EMA, the finite
check, records, checkpoints and stopping. What happens at stream position k is a function of the seed and k alone, so
a resumed run is the uninterrupted run. Several processes share every batch, each taking the positions of its rank:
gradients and numbers are the means over all, so that each holds the same weights, and the first one alone writes.
"""

import tempfile
import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..distributed import processes
from ..distributed.sharded_tensors import gathered_by_main
from ..errors import Stopped
from ..images.order import stream
from ..progress import Progress, Silent
from ..system.compile import eager_mode
from ..system.precision import Policy
from ..system.signals import StopFlag, stop_flag
from ..system.transfer import pin_memory
from . import checkpoint, record
from .evaluator import CONDITIONS, Best, Evaluator
from .state import require_whole
from .step import Stepper
from .task import Batch, Plan, Task

__all__ = ["Batch", "Plan", "Task", "rehearse", "train"]

_WARM_UP = 2  # steps in which memory is claimed and, where wanted, networks are compiled


def train(
    task: Task,
    plan: Plan,
    policy: Policy,
    folder: Path,
    progress: Progress,
    evaluator: Evaluator | None = None,
    ahead: bool | None = None,
) -> dict[str, Any]:
    """Train until `plan.images` images were seen, from the newest checkpoint in `folder` if there is one.

    Leaves `averaged` holding the EMA. Returns facts for the manifest. Raises Diverged, and Stopped after
    a checkpoint when a signal asks for it. Raises ConfigError for a batch that does not split into equal shares.
    ahead: see `Stepper`.
    """
    processes.require_equal_shares(plan.batch_size, plan.accumulate, processes.world().size)
    session = _Session(task, plan, policy, folder, progress, evaluator, ahead)
    progress.start("training", plan.images, "images", done=session.images)
    with stop_flag() as stop:
        if session.images == 0:
            session.evaluate(picture=True)
        elif session.owes:
            if not session.measure(stop):
                raise session.stopped(stop)
            if session.due(plan.checkpoint_every):  # As without an interruption.
                session.save()
        with closing(session.batches()) as batches:
            for data in batches:
                session.step(data)
                session.after_step(stop)
        session.finish()
        if processes.stop_requested(stop):
            raise session.stopped(stop)
    progress.finish()
    return {"images_seen": session.images, "steps": session.steps, "skipped_steps": session.stepper.guard.skipped}


def shared_rows(plan: Plan, world: processes.World) -> np.ndarray:
    """Return which rows of a batch are a process's: its share of every pass, so that passes are of the same rows
    whatever the number of processes. int64, in the order of the passes."""
    passes = np.arange(plan.batch_size).reshape(plan.accumulate, -1)
    return passes[:, world.share(passes.shape[1])].ravel()


class _Session:
    """The state of one training run over time."""

    def __init__(
        self,
        task: Task,
        plan: Plan,
        policy: Policy,
        folder: Path,
        progress: Progress,
        evaluator: Evaluator | None = None,
        ahead: bool | None = None,
    ) -> None:
        self.task, self.plan, self.policy, self.folder, self.progress = task, plan, policy, folder, progress
        self.evaluator, self.owes = evaluator, False
        self.world = processes.world()
        self.stepper = Stepper(task, plan, policy, ahead)
        self.images = self.steps = 0
        self._resume()
        if self.world.is_main:
            mirror = record.tensorboard_mirror(folder, self.images) if plan.tensorboard else None
            self.record = record.Record(folder, self.images or -1, mirror, without=CONDITIONS if self.owes else None)
            self.best = Best(evaluator, record.read(self.record.path)) if evaluator else None
        self.told, self.told_at = time.monotonic(), self.images  # when, and at which image, the last line was logged

    def batches(self) -> Generator[Any, None, None]:
        """Yield the tensors of every step still to do; the next batch is loaded while this one is used."""
        share = shared_rows(self.plan, self.world)

        def load(start: int) -> Any:
            positions = np.arange(start, start + self.plan.batch_size)[share]
            samples = stream(self.plan.seed, start, start + self.plan.batch_size, self.task.num_samples)[share]
            data = self.task.load(Batch(samples, positions, start))
            return pin_memory(data) if self.policy.device.type == "cuda" else data

        starts = range(self.images, self.plan.images, self.plan.batch_size)
        with ThreadPoolExecutor(1, thread_name_prefix="next-batch") as pool:
            pending: Future[Any] | None = None
            for start in starts:
                data = pending.result() if pending is not None else load(start)
                following = start + self.plan.batch_size
                pending = pool.submit(load, following) if following < self.plan.images else None
                processes.barrier()  # Nobody begins a step that another could not load.
                yield data

    def step(self, data: Any) -> None:
        """Take one optimizer step."""
        self.stepper.step(data, self.steps, self.images)

    def after_step(self, stop: StopFlag) -> None:
        """Advance the clock; log, validate, draw and save where an interval was passed; stop if asked to."""
        plan = self.plan
        self.images, self.steps = self.images + plan.batch_size, self.steps + 1
        self.progress.update(self.images)
        logging, saving, picture = map(self.due, (plan.log_every, plan.checkpoint_every, plan.picture_every))
        evaluating = picture or self._passed(plan.validate_every)
        measuring, stopping = (
            self.evaluator is not None and self.due(self.evaluator.every),
            processes.stop_requested(stop),
        )
        if logging or evaluating or measuring or saving or stopping:
            self.stepper.flush()
        if logging:
            self._log()
        if evaluating:
            self.evaluate(picture)
        if measuring:
            self.owes = True
            self.save()  # What goes wrong in a measurement costs nothing that was trained.
            stopping = not self.measure(stop) or stopping
        if (saving or stopping) and not self.owes:
            self.save()
        if stopping:
            raise self.stopped(stop)

    def due(self, every: int) -> bool:
        """Say whether what is done every so many images, and at the end, is to be done now."""
        return self._passed(every) or self.images >= self.plan.images

    def _passed(self, every: int) -> bool:
        """Say whether the last step passed a multiple of so many images."""
        return every > 0 and self.images // every > (self.images - self.plan.batch_size) // every

    def evaluate(self, picture: bool) -> None:
        """Validate, and draw, with the EMA in place of the weights; all together where those lie in rows."""
        if not (self.world.is_main or self.stepper.sharded):
            return
        self.task.modules.eval()
        with self.stepper.averaged(), torch.no_grad(), eager_mode():
            numbers = self.task.validate()
            if picture and self.plan.picture_every:
                self.task.picture(self.folder, self.images)
        if not self.world.is_main:
            return
        self.record.add({"images": self.images, "step": self.steps, **numbers})
        if picture and self.steps:  # Before the first step there is no curve yet.
            record.write_curves(self.folder)
        self.progress.update(self.images, **numbers)

    def measure(self, stop: StopFlag) -> bool:
        """Let the evaluator measure the EMA, and keep the best. Say whether it came to that before a stop."""
        assert self.evaluator is not None
        self.task.modules.eval()
        with self.stepper.averaged(), torch.no_grad(), eager_mode():
            numbers = self.evaluator.measure(lambda: processes.stop_requested(stop))
            self.owes = numbers is None
            if numbers is None:
                return False
            improved = self.world.is_main and self._record_measurement(numbers)
            if processes.broadcast_int(int(improved)):
                self.evaluator.keep(self.images, numbers)
        return True

    def _record_measurement(self, numbers: dict[str, Any]) -> bool:
        """Record and show a measurement, as the first process; say whether it is the best so far."""
        assert self.evaluator is not None and self.best is not None
        line = {"images": self.images, "step": self.steps, **numbers, CONDITIONS: self.evaluator.conditions}
        self.record.add(line)
        shown = self.evaluator.criterion
        self.progress.update(self.images, **{shown.partition("[")[0]: numbers[shown]})
        return self.best.improves(line)

    def stopped(self, stop: StopFlag) -> Stopped:
        """Return the error that ends the training where it was just saved."""
        return stop.stopped(f"after {self.images:,} images; a checkpoint is in {self.folder / checkpoint.FOLDER}")

    def finish(self) -> None:
        """Put the EMA in place for good."""
        self.stepper.finish()

    def _log(self) -> None:
        now = time.monotonic()
        speed = (self.images - self.told_at) / max(now - self.told, 1e-9)
        self.told, self.told_at = now, self.images
        means = self.stepper.meter.flush()
        if not self.world.is_main:
            return
        line = {"images": self.images, "step": self.steps, **means, "skipped": self.stepper.guard.skipped}
        self.record.add({**line, "images_per_second": round(speed, 1)})
        self.progress.update(self.images, **{key: means[key] for key in ("loss",) if key in means})

    def save(self) -> None:
        """Write a checkpoint."""
        groups = self.stepper.groups()
        with gathered_by_main(groups.values()):
            if self.world.is_main:
                state = {"images": self.images, "steps": self.steps, "owes": self.owes, **self.stepper.state()}
                checkpoint.save(self.folder, self.images, groups, state, self.plan.keep)

    def _resume(self) -> None:
        found = self._newest()
        if found is None:
            return
        remedy = f"remove {self.folder / checkpoint.FOLDER}, which is of another network, to start afresh"
        require_whole(found, remedy)
        self.stepper.load(found, remedy)
        self.images, self.steps = found.state["images"], found.state["steps"]
        self.owes = self.evaluator is not None and bool(found.state.get("owes"))
        self.progress.note(f"resuming after {self.images:,} images from {found.path}")

    def _newest(self) -> checkpoint.Checkpoint | None:
        """Find the checkpoint to go on from; the first process chooses it."""
        found = None
        if self.world.is_main:
            found = checkpoint.newest(self.folder, self.progress.warn, self.stepper.read)
        images = processes.broadcast_int(int(found.path.name) if found else -1)
        if images >= 0 and found is None:
            found = checkpoint.load(checkpoint.path_of(self.folder, images), self.stepper.read)
        return found


def rehearse(task: Task, plan: Plan, policy: Policy, seconds: float) -> tuple[float, int]:
    """Train for about so many seconds without keeping anything.

    Returns the seconds that a step took, after the first two, and how many were timed.
    """
    with tempfile.TemporaryDirectory(prefix="ldm-rehearsal-") as folder:
        session = _Session(task, replace(plan, images=2**62), policy, Path(folder), Silent())
        with closing(session.batches()) as batches:
            for data, number in zip(batches, range(_WARM_UP), strict=False):
                session.stepper.step(data, number, 0)
            _settled(session.stepper, policy)
            started, count = time.monotonic(), 0
            for data in batches:
                session.stepper.step(data, _WARM_UP + count, 0)
                count += 1
                if time.monotonic() - started >= seconds:
                    break
            _settled(session.stepper, policy)
            return (time.monotonic() - started) / count, count


def _settled(stepper: Stepper, policy: Policy) -> None:
    """Wait until the device has done all that it was given."""
    stepper.flush()
    if policy.device.type == "cuda":
        torch.cuda.synchronize(policy.device)
