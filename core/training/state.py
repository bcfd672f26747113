"""Where a training is: its clock, its log, its checkpoints, and what is validated and evaluated in it."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..distributed import processes
from ..distributed.sharded_tensors import gathered_by_main
from ..errors import DataError, Stopped, as_data_error
from ..progress import Progress
from ..runs import checkpoint, metrics_log
from ..system.compile import eager_mode
from ..system.signals import StopFlag
from . import record, resume
from .evaluator import CONDITIONS, Best, Evaluator
from .patience import Patience
from .step import Stepper
from .task import Plan
from .trackers import TensorBoard, Tracker, start_tracker

_LONGEST_UNSAVED = 600.0  # seconds of training that a crash may cost, whatever the interval of checkpoints


class Due(NamedTuple):
    """What a training does after a step; draw: pictures, with a validation; early: save the early state."""

    log: bool
    validate: bool
    draw: bool
    early: bool
    evaluate: bool
    save: bool


@dataclass
class TrainingState:
    """Where a training is: its clock, and what it writes to its folder."""

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
    log_file: record.MetricsLog = field(init=False)  # the main process's, as are `trackers` and `best`
    trackers: list[Tracker] = field(init=False, default_factory=list)
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
        self.is_last = self.images >= self.plan.images or resume.ended(found, self.plan.images)
        self.evaluation_pending = self.evaluator is not None and resume.evaluation_pending(found)
        self.progress.note(f"resuming after {self.images:,} images from {found.path}")

    def open_log(self) -> None:
        """Open `metrics.jsonl` for the main process, without the lines that will be written again."""
        self.last_log = time.monotonic(), self.images
        if not self.is_main:
            return

        # A pending evaluation will be made again, so a line that it wrote is dropped.
        drop = CONDITIONS if self.evaluation_pending else None
        self.log_file = record.MetricsLog(self.folder, self.images or -1, self._mirror, drop)
        if self.plan.tensorboard:
            self.trackers.append(TensorBoard(self.folder, self.images))
        if self.plan.tracker != "none":
            self.trackers.append(start_tracker(self.plan.tracker, self.folder, self.plan.model_dump(mode="json")))
        lines = metrics_log.read(self.log_file.path)
        self.best = Best(self.evaluator, lines) if self.evaluator else None
        self.patience = Patience(self.plan.patience, self.evaluator, lines) if self.plan.patience else None

    def track(self, report: Callable[[Tracker], None]) -> None:
        """Report to all that follow the training. One that fails is switched off, and the training goes on."""
        for tracker in [*self.trackers]:
            try:
                with as_data_error(f"tracker {tracker.name} failed and is switched off"):
                    report(tracker)
            except DataError as error:
                self.trackers.remove(tracker)
                self.progress.warn(f"{error.message}; metrics.jsonl has all numbers")

    def _mirror(self, line: Mapping[str, Any]) -> None:
        self.track(lambda tracker: tracker.line(line))

    def close(self) -> None:
        """End what follows the training, however it ended."""
        self.track(lambda tracker: tracker.close())

    def is_due(self, every: int) -> bool:
        """Return whether the last step passed a multiple of `every` images (0: never), or was the last of all."""
        return self._passes(self.images, every) or self.is_last

    def _passes(self, images: int, every: int) -> bool:
        """Return whether the step to `images` images passes a multiple of `every`."""
        return every > 0 and images // every > (images - self.plan.batch_size) // every

    def _leaves_ema(self, images: int) -> bool:
        """Return whether a checkpoint leaves its EMA: those at regular intervals, whatever stops came between."""
        return self.plan.keep_ema and self._passes(images, self.plan.checkpoint_every)

    def due(self) -> Due:
        """Return what is due after the last step."""
        plan, evaluator = self.plan, self.evaluator
        log, save, draw = map(self.is_due, (plan.log_every, plan.checkpoint_every, plan.picture_every))
        return Due(
            log=log,
            validate=draw or self.is_due(plan.validate_every),
            draw=draw,
            early=self.images - plan.batch_size < plan.early <= self.images,
            evaluate=evaluator is not None and self.is_due(evaluator.every),
            save=save or (log and self.is_overdue()),
        )

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
        if draw:
            self.track(lambda tracker: tracker.pictures(self.folder, self.images))
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
        if self.is_last and self.images < self.plan.images:
            clock[resume.ENDED] = self.plan.images
        # The main process gathers shards one tensor at a time: no process has to hold the whole network.
        with gathered_by_main(tensors.values()):
            if self.is_main:
                state = {**clock, **self.stepper.state()}
                checkpoint.save(self.folder, self.images, tensors, state, self.plan.keep, self._leaves_ema)

    def keep(self, save: Callable[[int], None]) -> None:
        """Let the EMA be saved, by all processes together."""
        with self._with_ema():
            save(self.images)

    def stopped(self, stop: StopFlag) -> Stopped:
        """Return the error that ends the training right after a checkpoint."""
        return stop.stopped(f"after {self.images:,} images; a checkpoint is in {self.folder / checkpoint.FOLDER}")
