"""The training loop of every trained stage. Its clock is images seen.

    train ─┬─ Stepper.step ─┬─ Task.loss, backward      forward and backward passes      (step.py, the task)
           │                ├─ GradientMean | Sharded   mean over the processes          (distributed/, sharding.py)
           │                ├─ clip, FiniteGuard, AdamW one optimizer step               (optimizer.py, guard.py)
           │                └─ EMA, Meter               what is sampled; mean losses     (ema.py, record.py)
           ├─ batches                                   the next batch, in a thread      (Task.load)
           ├─ _Run.log, validate, evaluate              lines of metrics.jsonl           (record.py, evaluator.py)
           └─ _Run.save, resume                         checkpoints                      (checkpoint.py)

What happens at a position of the stream of images is a function of the seed and that position alone, so a resumed run
is the uninterrupted run. Several processes share every batch, each taking its part: gradients and logged numbers are
means over all of them, so that all hold the same weights, and only the main process writes.
"""

import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..distributed import processes
from ..distributed.sharded_tensors import gathered_by_main
from ..errors import ConfigError, Stopped
from ..images.order import BalancedStream, stream
from ..progress import Progress
from ..runs import checkpoint, metrics_log
from ..system.compile import eager_mode
from ..system.precision import Policy
from ..system.signals import StopFlag, finish_flag, stop_flag
from ..system.transfer import pin_memory
from . import record, resume
from .evaluator import CONDITIONS, Best, Evaluator
from .patience import Patience
from .step import Stepper
from .task import Batch, Plan, Task

__all__ = ["Batch", "Plan", "Task", "rehearse", "train"]

_LONGEST_UNSAVED = 600.0  # seconds of training that a crash may cost, whatever the interval of checkpoints
_WARM_UP_STEPS = 2  # in which memory is allocated and, where wanted, networks are compiled


def train(
    task: Task,
    plan: Plan,
    policy: Policy,
    folder: Path,
    progress: Progress,
    evaluator: Evaluator | None = None,
    defer_check: bool | None = None,
) -> dict[str, Any]:
    """Train until `plan.images` images were seen, from the newest checkpoint in `folder` if there is one.

    Leaves `task.averaged` with the EMA as its weights. Returns metadata for the manifest. Raises Diverged, Stopped
    after a checkpoint when a signal asks for it, and ConfigError for a batch that does not split into equal shares.
    defer_check: see `Stepper`.
    """
    # Set up AdamW, EMA and GradScaler; under torchrun, averaging of gradients or sharding.
    processes.require_equal_shares(plan.batch_size, plan.accumulate, processes.world().size)
    run = _Run(plan, folder, progress, evaluator, Stepper(task, plan, policy, defer_check))

    # Resume from the newest whole checkpoint; metrics.jsonl loses what was logged after it.
    run.resume()
    run.is_last = run.images >= plan.images
    run.open_log()
    run.check_patience()
    order = order_of(task, plan)
    if isinstance(order, BalancedStream):
        progress.note(f"train.balance={plan.balance}: {order.described((task.labels() or ((), ()))[1])}")
    progress.start("training", plan.images, "images", done=run.images)

    loading = closing(batches(task, plan, policy, run.images))
    with stop_flag() as stop, finish_flag() as finish, loading as loader:
        # Before the first step: validate the initial weights, or make the evaluation that a stop cut short.
        if run.images == 0:
            run.validate(draw=True)
        elif run.evaluation_pending:
            if not run.evaluate(stop):
                raise run.stopped(stop)
            if run.is_due(plan.checkpoint_every):  # As without the interruption.
                run.save()

        for batch in loader:
            # Forward and backward passes, mean over processes, clipping, finite check, AdamW, EMA.
            run.stepper.step(batch, run.steps, run.images)

            # Advance the clock.
            run.images, run.steps = run.images + plan.batch_size, run.steps + 1
            progress.update(run.images)
            run.is_last = run.images >= plan.images or run.has_stalled or processes.stop_requested(finish)

            # What is due after this step? A signal to one process stops them all.
            log_due, save_due, draw_due = map(run.is_due, (plan.log_every, plan.checkpoint_every, plan.picture_every))
            validate_due = draw_due or run.is_due(plan.validate_every)
            evaluate_due = evaluator is not None and run.is_due(evaluator.every)
            save_due = save_due or (log_due and run.is_overdue())
            stopping = processes.stop_requested(stop)

            # Finish a deferred step before anything looks at weights, EMA or losses.
            if log_due or validate_due or evaluate_due or save_due or stopping:
                run.stepper.flush()

            # Log mean losses since the last line.
            if log_due:
                run.log()

            # Validate the EMA on held-out samples, and draw what it does.
            if validate_due:
                run.validate(draw_due)

            # Evaluate the EMA's samples; save before, so that an error in it costs nothing that was trained.
            if evaluate_due:
                run.evaluation_pending = True
                run.save()
                stopping = not run.evaluate(stop) or stopping

            # Has what is watched stopped improving? Then one more step is the last, with all that is due at the end.
            if validate_due or evaluate_due:
                run.check_patience()

            # Save a checkpoint; one with a pending evaluation was saved just now.
            if (save_due or stopping) and not run.evaluation_pending:
                run.save()

            # Stop after a checkpoint; the same command resumes.
            if stopping:
                raise run.stopped(stop)
            if run.is_last:
                break

        # The result is the EMA, not the last weights.
        run.stepper.keep_ema()
        if processes.stop_requested(stop):
            raise run.stopped(stop)
    progress.finish()
    return {
        "images_seen": run.images,
        "steps": run.steps,
        "skipped_steps": run.stepper.guard.skipped,
        **({"class_shares": order.shares.tolist()} if isinstance(order, BalancedStream) else {}),
    }


def batches(task: Task, plan: Plan, policy: Policy, start: int) -> Generator[Any, None, None]:
    """Yield this process's tensors of every step from position `start` on, loading the next batch meanwhile."""
    share, order = process_rows(plan, processes.world()), order_of(task, plan)

    def load(first: int) -> Any:
        # Every draw follows from an image's position in the stream, not from the process that loads it.
        positions = np.arange(first, first + plan.batch_size)[share]
        samples = order(plan.seed, first, first + plan.batch_size)[share]
        batch = task.load(Batch(samples, positions, first))
        return pin_memory(batch) if policy.device.type == "cuda" else batch

    # One batch ahead, so that decoding and copying overlap the step.
    with ThreadPoolExecutor(1, thread_name_prefix="next-batch") as pool:
        loaded = None
        for first in range(start, plan.images, plan.batch_size):
            batch = load(first) if loaded is None else loaded.result()
            following = first + plan.batch_size
            loaded = pool.submit(load, following) if following < plan.images else None
            processes.barrier()  # No process begins a step that another could not load.
            yield batch


def order_of(task: Task, plan: Plan) -> Callable[[int, int, int], np.ndarray]:
    """Return the order of samples: seed, first and last position → the samples there.

    Raises ConfigError for a balance of classes where the samples have none.
    """
    if plan.balance == "images":
        return partial(stream, num_samples=task.num_samples)
    found = task.labels()
    if found is None:
        raise ConfigError(f"`train.balance={plan.balance}` needs classes, and the data has none", "leave it out")
    return BalancedStream(found[0], plan.balance)


def process_rows(plan: Plan, world: processes.World) -> np.ndarray:
    """Return which rows of a batch are a process's: its share of every accumulated pass. int64, pass by pass.

    So a pass has the same rows, whatever the number of processes.
    """
    rows = np.arange(plan.batch_size).reshape(plan.accumulate, -1)
    return rows[:, world.share(rows.shape[1])].ravel()


@dataclass
class _Run:
    """A training run: its clock, and what it writes to its folder."""

    plan: Plan
    folder: Path
    progress: Progress
    evaluator: Evaluator | None
    stepper: Stepper
    images: int = 0
    steps: int = 0
    evaluation_pending: bool = False
    is_last: bool = False  # whether the last step of all was made
    last_save: float = field(default_factory=time.monotonic)
    last_log: tuple[float, int] = (0.0, 0)  # when, and after how many images
    log_file: record.MetricsLog = field(init=False)  # the main process's, as are `board` and `best`
    board: record.TensorBoard | None = field(init=False, default=None)
    best: Best | None = None
    patience: Patience | None = None  # the main process's
    has_stalled: bool = False  # whether that has ended

    def __post_init__(self) -> None:
        self.is_main = processes.world().is_main

    def resume(self) -> None:
        """Continue from the newest checkpoint that is whole, which the main process chooses, if there is one."""
        found, read = None, self.stepper.read
        if self.is_main:
            found = checkpoint.newest(self.folder, self.progress.warn, read)
        images = processes.broadcast_int(int(found.path.name) if found else -1)
        if images < 0:
            return

        # The others load the one that the main process chose: each might pass over another damaged file.
        found = found or checkpoint.load(checkpoint.path_of(self.folder, images), read)

        # Restore weights, EMA, AdamW and loss scale, then the clock.
        remedy = f"remove {self.folder / checkpoint.FOLDER}: it is of another network, and training starts over"
        resume.require_complete(found, remedy)
        self.stepper.load(found, remedy)
        self.images, self.steps = found.state["images"], found.state["steps"]
        self.evaluation_pending = self.evaluator is not None and resume.evaluation_pending(found)
        self.progress.note(f"resuming after {self.images:,} images from {found.path}")

    def open_log(self) -> None:
        """Open `metrics.jsonl` for the main process, without the lines that will be written again."""
        self.last_log = time.monotonic(), self.images
        if not self.is_main:
            return

        # A pending evaluation will be made again, so a line that it wrote is dropped.
        self.board = record.TensorBoard(self.folder, self.images) if self.plan.tensorboard else None
        mirror = self.board.line if self.board else None
        drop = CONDITIONS if self.evaluation_pending else None
        self.log_file = record.MetricsLog(self.folder, self.images or -1, mirror, drop)
        lines = metrics_log.read(self.log_file.path)
        self.best = Best(self.evaluator, lines) if self.evaluator else None
        self.patience = Patience(self.plan.patience, self.evaluator, lines) if self.plan.patience else None

    def is_due(self, every: int) -> bool:
        """Return whether the last step passed a multiple of `every` images (0: never), or was the last of all."""
        passed = every > 0 and self.images // every > (self.images - self.plan.batch_size) // every
        return passed or self.is_last

    def is_overdue(self) -> bool:
        """Return whether the last checkpoint is old, by the main process's clock."""
        return bool(processes.broadcast_int(int(time.monotonic() - self.last_save > _LONGEST_UNSAVED)))

    def check_patience(self) -> None:
        """Ask the main process whether the training has stopped improving."""
        if not self.plan.patience:
            return
        ended = self.patience is not None and self.patience.has_ended
        self.has_stalled = bool(processes.broadcast_int(int(ended)))
        if self.patience is not None and self.has_stalled and not self.is_last:
            assert self.patience.best is not None, "it has ended"
            value, images = self.patience.best
            self.progress.note(
                f"ending after {self.images:,} images: {self.patience.name} was best after {images:,}, {value:.4g}"
            )

    def add_line(self, line: dict[str, Any]) -> None:
        """Write a line of numbers, as the main process; they may also be had as a table."""
        self.log_file.add(line)
        if self.plan.csv:
            record.write_table(self.folder)
        if self.patience is not None:
            self.patience.add(line)

    def log(self) -> None:
        """Write the mean losses since the last line, and the speed."""
        (then, images), self.last_log = self.last_log, (time.monotonic(), self.images)
        speed = (self.images - images) / max(self.last_log[0] - then, 1e-9)

        # Every process empties its meter; only the main one writes.
        means = self.stepper.meter.flush()
        if not self.is_main:
            return
        line = {"images": self.images, "step": self.steps, **means, "skipped": self.stepper.guard.skipped}
        self.add_line({**line, "images_per_second": round(speed, 1)})
        self.progress.update(self.images, **{key: means[key] for key in ("loss",) if key in means})

    def validate(self, draw: bool) -> None:
        """Validate the EMA and, if wanted, write a picture and the curves. Shards need all processes for it."""
        if not (self.is_main or self.stepper.sharded):
            return
        task = self.stepper.task
        with self._with_ema():
            numbers = task.validate()
            if draw and self.plan.picture_every:
                task.picture(self.folder, self.images)
        if not self.is_main:
            return
        if self.board and draw:
            self.board.pictures(self.folder, self.images)
        self.add_line({"images": self.images, "step": self.steps, **numbers})
        if draw and self.steps:  # Before the first step the curve is empty.
            record.write_curves(self.folder)
        self.progress.update(self.images, **numbers)

    def evaluate(self, stop: StopFlag) -> bool:
        """Evaluate the EMA, and save the best; return False where a stop cut that short."""
        assert self.evaluator is not None
        with self._with_ema():
            numbers = self.evaluator.evaluate(lambda: processes.stop_requested(stop))
            self.evaluation_pending = numbers is None
            if numbers is None:
                return False
            # Only the main process has the numbers, but saving a sharded network takes all processes.
            improved = self.is_main and self._log_evaluation(numbers)
            if processes.broadcast_int(int(improved)):
                self.evaluator.save_best(self.images, numbers)
        return True

    def _log_evaluation(self, numbers: dict[str, Any]) -> bool:
        """Log an evaluation, as the main process; return whether it is the best so far."""
        assert self.evaluator is not None and self.best is not None
        line = {"images": self.images, "step": self.steps, **numbers, CONDITIONS: self.evaluator.conditions}
        self.add_line(line)
        criterion = self.evaluator.criterion
        self.progress.update(self.images, **{criterion.partition("[")[0]: numbers[criterion]})
        return self.best.improves(line)

    @contextmanager
    def _with_ema(self) -> Generator[None, None, None]:
        """Let the networks hold the EMA, in eval mode and not compiled for these shapes, inside a block."""
        self.stepper.task.modules.eval()
        with self.stepper.ema_weights(), torch.no_grad(), eager_mode():
            yield

    def save(self) -> None:
        """Write a checkpoint, together where the network is sharded."""
        self.last_save = time.monotonic()
        tensors = self.stepper.tensors()
        clock = {"images": self.images, "steps": self.steps, "evaluation_pending": self.evaluation_pending}
        # The main process gathers shards one tensor at a time: no process has to hold the whole network.
        with gathered_by_main(tensors.values()):
            if self.is_main:
                state = {**clock, **self.stepper.state()}
                checkpoint.save(self.folder, self.images, tensors, state, self.plan.keep)

    def stopped(self, stop: StopFlag) -> Stopped:
        """Return the error that ends the training right after a checkpoint."""
        return stop.stopped(f"after {self.images:,} images; a checkpoint is in {self.folder / checkpoint.FOLDER}")


def rehearse(task: Task, plan: Plan, policy: Policy, seconds: float) -> tuple[float, int]:
    """Train for about `seconds` without keeping anything.

    Returns the seconds of a step, after two steps to warm up, and how many were timed.
    """
    plan = plan.model_copy(update={"images": 2**62})
    stepper = Stepper(task, plan, policy)

    def synchronize() -> float:
        stepper.flush()
        if policy.device.type == "cuda":
            torch.cuda.synchronize(policy.device)
        return time.monotonic()

    with closing(batches(task, plan, policy, 0)) as loader:
        # Warm up: memory is allocated and networks are compiled before the clock starts.
        for step in range(_WARM_UP_STEPS):
            stepper.step(next(loader), step, 0)

        # Time whole steps: a GPU runs behind the program, so read the clock only once it is idle.
        started, count = synchronize(), 0
        while not count or time.monotonic() - started < seconds:
            stepper.step(next(loader), _WARM_UP_STEPS + count, 0)
            count += 1
        return (synchronize() - started) / count, count
