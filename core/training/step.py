"""One optimizer step: forward, backward, mean over processes, clipping, finite check, optimizer, EMA.

A step whose loss or gradient norm is not finite changes neither weights nor EMA. On a CPU that is checked before the
optimizer steps. On a GPU, reading the loss would make the program wait and leave the GPU without work; there the check
is deferred: the optimizer gets it as a tensor and skips the update on the device, and the program reads the numbers of
step k, counts a skip and updates the EMA after it has queued the forward and backward passes of step k + 1. The
arithmetic and its order are the same.
"""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..distributed import processes
from ..distributed.averaging import GradientMean
from ..distributed.sharded_tensors import ShardedTensors, sharded_tensors
from ..runs.checkpoint import Checkpoint
from ..runs.weights import require_fit
from ..system.precision import Policy
from .ema import EMA
from .guard import FiniteGuard
from .optimizer import build_optimizer, clip_gradients, learning_rate, load_optimizer_state, optimizer_state
from .record import Meter
from .task import Plan, Task

if TYPE_CHECKING:
    from .sharding import Sharded

_LOSS_AND_NORM = slice(0, 2)  # of a step's numbers: those that have to be finite


@dataclass
class _Numbers:
    """What one network's passes gave, on the device: values (2 + n,) are loss, gradient norm, and those in `names`."""

    names: list[str]
    values: Tensor


@dataclass
class _PendingStep:
    """A step that the GPU may not have finished, with its numbers on their way to the CPU; `copied` when they are."""

    index: int
    lr: float
    names: list[str]
    values: Tensor
    copied: torch.cuda.Event | None


class Stepper:
    """A task's networks with all that training changes: weights, moments, EMA, loss scale, skipped steps, mean losses.

    defer_check: whether the finite check of a step is read during the next one; by default on a GPU, where neither a
    GradScaler nor `task.after_step` needs it at once. Call `flush` before looking at weights, EMA or numbers.
    """

    def __init__(self, task: Task, plan: Plan, policy: Policy, defer_check: bool | None = None) -> None:
        self.task, self.plan, self.policy = task, plan, policy

        # Every process holds all weights and averages gradients, or `fully_shard` spreads one network over them.
        self.sharded = self._shard() if plan.shard and processes.world().size > 1 else None
        if self.sharded is None:
            # The same seed may give other last bits on another machine: all start from the main process's weights.
            processes.broadcast_from_main(task.modules.state_dict().values())
            self.modules, self.networks = task.modules, task.networks
            averaged: nn.Module = task.averaged
            self.gradient_means: dict[str, GradientMean | Sharded] = {
                role: GradientMean(network) for role, network in self.networks.items()
            }
        else:
            self.modules = averaged = self.sharded.local
            self.networks = dict.fromkeys(task.networks, averaged)
            self.gradient_means = dict.fromkeys(task.networks, self.sharded)

        # One optimizer per network; fp32 master weights, so that only fp16 gradients need a loss scale.
        # Muon is for the first network; a discriminator keeps AdamW.
        betas, muon_rates = (plan.beta1, plan.beta2), dict.fromkeys(self.networks, 0.0)
        muon_rates[next(iter(self.networks))] = plan.rate_of_muon
        self.optimizers = {
            role: build_optimizer(network, plan.lr, plan.weight_decay, betas, muon_rates[role], policy.dtype)
            for role, network in self.networks.items()
        }
        self.scaler = torch.amp.GradScaler(policy.device.type, enabled=policy.needs_scaler)
        self.ema = EMA(averaged, plan.ema)
        self.guard, self.meter = FiniteGuard(), Meter()

        # On a GPU, read whether a step was finite only during the next one, unless something needs it at once.
        can_defer = len(self.optimizers) == 1 and not self.scaler.is_enabled()
        on_gpu = policy.device.type == "cuda"
        self.defer_check = on_gpu and can_defer and not task.synchronous if defer_check is None else defer_check
        assert can_defer or not self.defer_check, "a scaler or a second network needs the finite check at once"
        self._pending: _PendingStep | None = None

    def step(self, batch: Any, step_index: int, images_seen: int) -> None:
        """Take an optimizer step, counted from 0, with the learning rate after `images_seen` images. Raises Diverged.

        Several networks step one after the other, up to the first whose numbers are not finite.
        """
        self.task.modules.train()
        # The rate follows images seen: warm-up and decay mean the same at any batch size.
        lr = learning_rate(images_seen, self.plan)

        # Passes of equal size: the mean of their gradients is the gradient of the batch.
        accumulate = self.plan.accumulate
        passes = self.task.split(batch, accumulate) if accumulate > 1 else [batch]
        if self.defer_check:
            self._step_deferred(passes, step_index, lr)
        else:
            logged = {"lr": lr}
            self._finish(all(self._step_network(role, passes, step_index, logged) for role in self.networks), logged)

    def _step_network(self, role: str, passes: list[Any], step_index: int, logged: dict[str, float]) -> bool:
        """Step one network unless its numbers are not finite; return whether it did, and add what is to be logged."""
        # Gradients, and the numbers read from the device: on a GPU the program waits here.
        optimizer = self.optimizers[role]
        numbers = self._forward_backward(role, passes)
        if numbers is None:
            return True
        values = numbers.values.cpu()
        loss, norm = values[_LOSS_AND_NORM].tolist()

        # A GradScaler finds its scale by overflowing: inf under a large scale is its own affair, not divergence.
        searching = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        overflowed = searching and math.isfinite(loss) and not math.isfinite(norm)
        accepted = not overflowed and self.guard.check(step_index, values[_LOSS_AND_NORM])

        # A skipped step changes neither weights nor moments.
        if accepted:
            _set_learning_rate(optimizer, logged["lr"])
            self.scaler.step(optimizer)
            is_first = role == next(iter(self.networks))
            logged |= _to_log(numbers.names, values, prefix="" if is_first else f"{role}_")
        self.scaler.update()
        return accepted

    def _step_deferred(self, passes: list[Any], step_index: int, lr: float) -> None:
        """Queue a step on the device, and finish the one before while the device works."""
        # Queue the forward and backward passes of this step.
        ((role, optimizer),) = self.optimizers.items()
        numbers = self._forward_backward(role, passes)
        assert numbers is not None, "a single network always has a gradient"

        # The EMA takes in the weights of the step before, which this step has not changed yet.
        self.flush()

        # Fused AdamW and Muon leave weights, moments and step count alone where found_inf is 1, as under a GradScaler.
        _set_learning_rate(optimizer, lr)
        is_finite = torch.isfinite(numbers.values[_LOSS_AND_NORM]).all()
        optimizer.grad_scale, optimizer.found_inf = None, (~is_finite).float()  # type: ignore[attr-defined]
        optimizer.step()
        self._pending = _PendingStep(step_index, lr, numbers.names, *_copy_to_cpu(numbers.values))

    def _forward_backward(self, role: str, passes: list[Any]) -> _Numbers | None:
        """Compute a network's clipped gradients; None where its loss has none. Reads no number from the device."""
        optimizer, gradient_mean = self.optimizers[role], self.gradient_means[role]
        optimizer.zero_grad(set_to_none=True)
        mean_loss = torch.zeros((), device=self.policy.device)
        sums: dict[str, Tensor] = {}

        # Accumulate gradients over the passes; other processes' are added during the last backward.
        for number, part in enumerate(passes, 1):
            with self.policy.autocast():
                loss, details = self.task.loss(role, part)
            if not loss.requires_grad:
                return None
            if number == len(passes):
                gradient_mean.sync_next_backward()
            self.scaler.scale(loss / len(passes)).backward()
            mean_loss += loss.detach() / len(passes)
            for name, value in details.items():
                share = value.detach().to(mean_loss.device, _widest_float(mean_loss.device)) / len(passes)
                sums[name] = sums[name] + share if name in sums else share
        gradient_mean.wait()

        # The numbers to log are means over the processes, too; so all agree on whether the step is finite.
        values = torch.stack([mean_loss.to(_widest_float(mean_loss.device)), *sums.values()])
        if processes.world().size > 1:
            values = processes.all_reduce_mean(values)
            # The loss is float32 for one process, so also for many.
            values[0] = values[0].float()

        # Clip true gradients, so unscale them before; the norm logged is the one before clipping.
        self.scaler.unscale_(optimizer)
        norm = clip_gradients(optimizer, self.plan.clip, sharded=self.sharded is not None)
        return _Numbers([*sums], torch.cat([values[:1], norm.to(values).reshape(1), values[1:]]))

    def flush(self) -> None:
        """Wait for a deferred step, if there is one, and finish it."""
        if self._pending is None:
            return

        # Its numbers were on their way to the CPU while the next passes were queued.
        step, self._pending = self._pending, None
        if step.copied is not None:
            step.copied.synchronize()

        # The optimizer found the same on the device; here a skip is counted, which may raise Diverged.
        accepted = self.guard.check(step.index, step.values[_LOSS_AND_NORM])
        self._finish(accepted, {"lr": step.lr, **_to_log(step.names, step.values)})

    def _finish(self, accepted: bool, logged: dict[str, float]) -> None:
        """Do what follows the optimizers: the task's own updates, then the EMA and mean losses of an accepted step."""
        # The task first: a codebook that it moves belongs to the state that the EMA averages.
        self.task.after_step(accepted)
        if accepted:
            self.ema.update()
            self.meter.add(logged)

    def ema_weights(self) -> AbstractContextManager[None]:
        """Let the networks hold the EMA inside a block."""
        return self.ema.applied() if self.sharded is None else self.sharded.ema_weights(self.ema)

    def keep_ema(self) -> None:
        """Replace the weights by their EMA, at the end of the training."""
        if self.sharded is None:
            self.ema.copy_to(self.task.averaged)
        else:
            # Free gathered weights, which are still those from before.
            self.ema.copy_to(self.sharded.local)
            self.sharded.reshard()
        self.task.modules.eval()

    def tensors(self) -> dict[str, ShardedTensors]:
        """Return the tensors of a checkpoint, by file and name."""
        optimizers = {
            f"{role}.{name}": tensor
            for role, optimizer in self.optimizers.items()
            for name, tensor in optimizer_state(optimizer, self.networks[role]).items()
        }
        groups = {"model": self.modules.state_dict(), "ema": self.ema.state(), "optimizer": optimizers}
        to_write = sharded_tensors if self.sharded is None else self.sharded.tensors
        return {name: to_write(tensors) for name, tensors in groups.items()}

    def state(self) -> dict[str, Any]:
        """Return the rest of a checkpoint, JSON."""
        return {
            "guard": self.guard.model_dump(),
            "meter": self.meter.model_dump(),
            "scaler": self.scaler.state_dict(),
            "ema_updates": self.ema.num_updates,
        }

    def read(self, path: Path) -> dict[str, Tensor]:
        """Read the tensors of a checkpoint's file, of sharded ones this process's rows."""
        return load_file(path) if self.sharded is None else self.sharded.read(path)

    def load(self, found: Checkpoint, remedy: str) -> None:
        """Continue from a checkpoint. Raises DataError with the remedy where it is of another network."""
        require_fit(self.modules, found.groups["model"], found.path, remedy)
        self.modules.load_state_dict(found.groups["model"])
        self.ema.load(found.groups["ema"], found.state["ema_updates"])

        # One file holds the moments of all networks, under "ROLE.".
        for role, optimizer in self.optimizers.items():
            prefix, tensors = f"{role}.", found.groups["optimizer"]
            own = {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
            load_optimizer_state(optimizer, self.networks[role], own)

        # Skips so far, and the steps since the last line of metrics.jsonl.
        self.guard, self.meter = FiniteGuard(**found.state["guard"]), Meter(**found.state["meter"])
        if found.state["scaler"]:  # Empty where the run began on a device that needs none.
            self.scaler.load_state_dict(found.state["scaler"])

    def _shard(self) -> "Sharded":
        from .sharding import Sharded  # torch takes a second to load what it needs

        (network,) = self.task.networks.values()
        assert network is self.task.modules and network is self.task.averaged, "one network, and nothing beside it"
        return Sharded(network, self.policy)


def _to_log(names: list[str], values: Tensor, prefix: str = "") -> dict[str, float]:
    """Return one network's numbers by the names that they have in metrics.jsonl."""
    loss, norm, *details = values.tolist()
    return {**dict(zip(names, details, strict=True)), f"{prefix}loss": loss, f"{prefix}grad_norm": norm}


def _copy_to_cpu(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Start copying values to the CPU; from a GPU they are there once the event is done."""
    if values.device.type != "cuda":
        return values.cpu(), None
    pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    pinned.copy_(values, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(values.device))  # Another GPU may be the current one.
    return pinned, copied


def _set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["relative"] if "relative" in group else lr


def _widest_float(device: torch.device) -> torch.dtype:
    """Float64 wherever it exists; Apple's GPUs have none."""
    return torch.float32 if device.type == "mps" else torch.float64
