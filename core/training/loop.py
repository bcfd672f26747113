"""The training loop of every trained stage. Its clock is images seen.

    train ─┬─ Stepper.step ─┬─ Task.loss, backward      forward and backward passes      (step.py, the task)
           │                ├─ GradientMean | Sharded   mean over the processes          (distributed/, sharding.py)
           │                ├─ clip, FiniteGuard, AdamW one optimizer step               (optimizer.py, guard.py)
           │                └─ EMA, Meter               what is sampled; mean losses     (ema.py, record.py)
           ├─ batches                                   the next batch, in a thread      (Task.load)
           ├─ TrainingState.log, validate, evaluate     lines of metrics.jsonl           (state.py, record.py)
           └─ TrainingState.save, resume                checkpoints                      (state.py, checkpoint.py)

What happens at a position of the stream of images is a function of the seed and that position alone, so a resumed run
is the uninterrupted run. Several processes share every batch, each taking its part: gradients and logged numbers are
means over all of them, so that all hold the same weights, and only the main process writes.
"""

import time
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..distributed import processes
from ..errors import ConfigError
from ..images.order import BalancedStream, stream
from ..progress import Progress
from ..system.precision import Policy
from ..system.signals import finish_flag, stop_flag
from ..system.threads import background
from ..system.transfer import pin_memory
from .evaluator import Evaluator
from .repeats import repeats_of
from .state import TrainingState
from .step import Stepper
from .task import Batch, Plan, Task

__all__ = ["Batch", "Plan", "Task", "rehearse", "train"]

_WARM_UP_STEPS = 2  # in which memory is allocated and, where wanted, networks are compiled


def train(
    task: Task,
    plan: Plan,
    policy: Policy,
    folder: Path,
    progress: Progress,
    evaluator: Evaluator | None = None,
    defer_check: bool | None = None,
    keep_early: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Train until `plan.images` images were seen, from the newest checkpoint in `folder` if there is one.

    Leaves `task.averaged` with the EMA as its weights. Returns metadata for the manifest. Raises Diverged, Stopped
    after a checkpoint when a signal asks for it, and ConfigError for a batch that does not split into equal shares.
    defer_check: see `Stepper`. keep_early: saves the EMA, which the networks hold, after `plan.early` images.
    """
    # Set up AdamW, EMA and GradScaler; under torchrun, averaging of gradients or sharding.
    processes.require_equal_shares(plan.batch_size, plan.accumulate, processes.world().size)
    state = TrainingState(plan, folder, progress, evaluator, Stepper(task, plan, policy, defer_check))

    # Resume from the newest whole checkpoint; metrics.jsonl loses what was logged after it.
    state.resume()
    state.open_log()
    state.check_patience()
    order = order_of(task, plan)
    if isinstance(order, BalancedStream):
        asked = " ".join([f"train.balance={plan.balance}", *(f"train.repeats={each}" for each in plan.repeats)])
        progress.note(f"{asked}: {order.described((task.labels() or ((), ()))[1])}")
    progress.start("training", plan.images, "images", done=state.images)

    loading = closing(batches(task, plan, policy, state.images))
    with stop_flag() as stop, finish_flag() as finish, closing(state), loading as loader:
        # Before the first step: validate the initial weights, or make the evaluation that a stop cut short.
        if state.images == 0:
            state.validate(draw=True)
        elif state.evaluation_pending:
            if not state.evaluate(stop):
                raise state.stopped(stop)
            state.check_patience()
            if state.is_due(plan.checkpoint_every):  # As without the interruption.
                state.save()

        for batch in () if state.is_last else loader:
            # Forward and backward passes, mean over processes, clipping, finite check, AdamW, EMA.
            state.stepper.step(batch, state.steps, state.images)

            # Advance the clock.
            state.images, state.steps = state.images + plan.batch_size, state.steps + 1
            progress.update(state.images)
            state.is_last = state.images >= plan.images or state.has_stalled or processes.stop_requested(finish)

            # What is due after this step? A signal to one process stops them all.
            due = state.due()
            stopping = processes.stop_requested(stop)

            # Finish a deferred step before anything looks at weights, EMA or losses.
            if stopping or any(due):
                state.stepper.flush()

            # Log mean losses since the last line.
            if due.log:
                state.log()

            # Validate the EMA on held-out samples, and draw what it does.
            if due.validate:
                state.validate(due.draw)

            # Keep an early state; before the checkpoint, without which this step comes again.
            if keep_early is not None and due.early:
                state.keep(keep_early)

            # Evaluate the EMA's samples; save before, so that an error in it costs nothing that was trained.
            if due.evaluate:
                state.evaluation_pending = True
                state.save()
                stopping = not state.evaluate(stop) or stopping

            # Has what is watched stopped improving? Then one more step is the last, with all that is due at the end.
            if due.validate or due.evaluate:
                state.check_patience()

            # Save a checkpoint; one with a pending evaluation was saved just now.
            if (due.save or stopping) and not state.evaluation_pending:
                state.save()

            # Stop after a checkpoint; the same command resumes.
            if stopping:
                raise state.stopped(stop)
            if state.is_last:
                break

        # The result is the EMA, not the last weights.
        state.stepper.keep_ema()
        if processes.stop_requested(stop):
            raise state.stopped(stop)
    progress.finish()
    return {
        "images_seen": state.images,
        "steps": state.steps,
        "skipped_steps": state.stepper.guard.skipped,
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
    with background("next-batch", alone=policy.device.type == "cpu") as pool:
        loaded = None
        for first in range(start, plan.images, plan.batch_size):
            batch = load(first) if loaded is None else loaded.result()
            following = first + plan.batch_size
            loaded = pool.submit(load, following) if following < plan.images else None
            processes.barrier()  # No process begins a step that another could not load.
            yield batch


def order_of(task: Task, plan: Plan) -> Callable[[int, int, int], np.ndarray]:
    """Return the order of samples: seed, first and last position → the samples there.

    Raises ConfigError for a balance of classes where the samples have none, and for a class that is unknown.
    """
    if plan.balance == "images" and not plan.repeats:
        return partial(stream, num_samples=task.num_samples)
    found = task.labels()
    if found is None:
        given = f"repeats={plan.repeats[0]}" if plan.repeats else f"balance={plan.balance}"
        raise ConfigError(f"`train.{given}` needs classes, and the data has none", "leave it out")
    labels, names = found
    return BalancedStream(labels, plan.balance, repeats_of(plan.repeats, names))


def process_rows(plan: Plan, world: processes.World) -> np.ndarray:
    """Return which rows of a batch are a process's: its share of every accumulated pass. int64, pass by pass.

    So a pass has the same rows, whatever the number of processes.
    """
    rows = np.arange(plan.batch_size).reshape(plan.accumulate, -1)
    return rows[:, world.share(rows.shape[1])].ravel()


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
