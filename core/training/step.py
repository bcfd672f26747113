"""One optimizer step: passes, the mean over processes, clipping, the finite check, AdamW, the EMA.

A step whose loss or gradient is not finite touches neither weights nor average. On the CPU that is settled on the
spot. A GPU works behind the program that fills its queue, and asking it for a number stops both; there the optimizer
is handed the verdict as a tensor and leaves the weights alone itself, while the program reads the numbers of one step,
counts it and moves the average once the passes of the next are in the queue. The arithmetic and its order are the same.
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
from ..runs.weights import require_fit
from ..system.precision import Policy
from . import record
from .checkpoint import Checkpoint
from .ema import EMA
from .guard import FiniteGuard
from .optimizer import OptimConfig, build_adamw, clip_gradients, learning_rate, load_optimizer_state, optimizer_state
from .task import Plan, Task

if TYPE_CHECKING:
    from .sharding import Sharded

_VERDICT = slice(0, 2)  # loss and gradient norm: the readings that must be finite


@dataclass
class _Readings:
    """Numbers of one role's passes: values (2 + n,) on the device, loss and gradient norm, then those named."""

    names: list[str]
    values: Tensor


@dataclass
class _Unsettled:
    """A step that the device may not have done yet: its number, its learning rate, and its readings on their way."""

    number: int
    rate: float
    names: list[str]
    host: Tensor
    arrived: torch.cuda.Event | None

    def wait(self) -> Tensor:
        """Return the readings once they are there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.host


class Stepper:
    """What a task's networks are moved by, and all of its state over time.

    ahead: whether a step is settled during the next one; by default where the device runs behind the program and
    nothing that the next step needs hangs on the verdict. `flush` before looking at anything.
    """

    def __init__(self, task: Task, plan: Plan, policy: Policy, ahead: bool | None = None) -> None:
        self.task, self.plan, self.policy = task, plan, policy
        self.optim = OptimConfig(
            lr=plan.lr,
            weight_decay=plan.weight_decay,
            betas=(plan.beta1, plan.beta2),
            warmup_images=plan.warmup,
            decay=plan.decay,
            clip=plan.clip,
        )
        self.sharded = self._shard() if plan.shard and processes.world().size > 1 else None
        if self.sharded is None:
            processes.broadcast_from_main(task.modules.state_dict().values())
            self.modules, self.networks = task.modules, task.networks
            averaged: nn.Module = task.averaged
            self.means: dict[str, GradientMean | Sharded] = {
                name: GradientMean(module) for name, module in self.networks.items()
            }
        else:
            self.modules = averaged = self.sharded.local
            self.networks = dict.fromkeys(task.networks, averaged)
            self.means = dict.fromkeys(task.networks, self.sharded)
        self.optimizers = {name: build_adamw(module, self.optim) for name, module in self.networks.items()}
        self.ema = EMA(averaged, plan.ema)
        self.guard, self.meter = FiniteGuard(), record.Meter()
        self.scaler = torch.amp.GradScaler(policy.device.type, enabled=policy.needs_scaler)
        self.ahead = self._may_run_ahead() if ahead is None else ahead
        assert not (self.ahead and (self.scaler.is_enabled() or len(self.optimizers) > 1)), "this training must wait"
        self._unsettled: _Unsettled | None = None

    def step(self, data: Any, number: int, images: int) -> None:
        """Take the optimizer step of that number, counted from 0, with the learning rate after `images` images.

        Every role takes its own, up to the first that is not finite: the step ends there. Raises Diverged.
        """
        rate = learning_rate(self.optim, images, self.plan.images)
        parts = self.task.split(data, self.plan.accumulate) if self.plan.accumulate > 1 else [data]
        self.task.modules.train()
        if self.ahead:
            self._step_ahead(parts, number, rate)
            return
        numbers = {"lr": rate}
        finite = all(self._turn(role, parts, number, numbers) for role in self.optimizers)
        self.task.after_step(finite)
        if finite:
            self.ema.update()
            self.meter.add(numbers)

    def flush(self) -> None:
        """Wait for the last step, if it has not been settled: count it, and take it into average and means."""
        if self._unsettled is None:
            return
        step, self._unsettled = self._unsettled, None
        values = step.wait()
        finite = self.guard.admit(step.number, values[_VERDICT])
        self.task.after_step(finite)
        if finite:
            self.ema.update()
            self.meter.add({"lr": step.rate, **_named(step.names, values, "")})

    def finish(self) -> None:
        """Put the EMA in place for good."""
        if self.sharded is None:
            self.ema.copy_to(self.task.averaged)
        else:
            self.ema.copy_to(self.sharded.local)
            self.sharded.reshard()
        self.task.modules.eval()

    def averaged(self) -> AbstractContextManager[None]:
        """Let the networks hold the EMA inside a block."""
        return self.ema.applied() if self.sharded is None else self.sharded.ema_weights(self.ema)

    def groups(self) -> dict[str, ShardedTensors]:
        """Return every tensor that a checkpoint keeps, by group and name."""
        optimizers = {
            f"{role}.{name}": tensor
            for role, optimizer in self.optimizers.items()
            for name, tensor in optimizer_state(optimizer, self.networks[role]).items()
        }
        held = {"model": self.modules.state_dict(), "ema": self.ema.state(), "optimizer": optimizers}
        scatter = sharded_tensors if self.sharded is None else self.sharded.tensors
        return {name: scatter(tensors) for name, tensors in held.items()}

    def read(self, path: Path) -> dict[str, Tensor]:
        """Read what this process holds of a checkpoint's file."""
        return load_file(path) if self.sharded is None else self.sharded.read(path)

    def state(self) -> dict[str, Any]:
        """Return what else it keeps, JSON."""
        return {
            "guard": self.guard.state(),
            "meter": self.meter.state(),
            "scaler": self.scaler.state_dict(),
            "ema_updates": self.ema.num_updates,
        }

    def load(self, found: Checkpoint, remedy: str) -> None:
        """Take up a checkpoint. Raises DataError with the remedy where it is of another network."""
        require_fit(self.modules, found.groups["model"], found.path, remedy)
        self.modules.load_state_dict(found.groups["model"])
        self.ema.load(found.groups["ema"], found.state["ema_updates"])
        for role, optimizer in self.optimizers.items():
            own = {
                key.removeprefix(f"{role}."): tensor
                for key, tensor in found.groups["optimizer"].items()
                if key.startswith(f"{role}.")
            }
            load_optimizer_state(optimizer, self.networks[role], own)
        self.guard.load(found.state["guard"])
        self.meter.load(found.state["meter"])
        if found.state["scaler"]:  # It is empty where the run began on a device that needs none.
            self.scaler.load_state_dict(found.state["scaler"])

    def _turn(self, role: str, parts: list[Any], number: int, numbers: dict[str, float]) -> bool:
        """Take one role's optimizer step unless it is not finite; say whether, and add to the numbers to log."""
        optimizer = self.optimizers[role]
        readings = self._passes(role, parts)
        if readings is None:
            return True
        values = readings.values.cpu()
        loss, norm = values[_VERDICT].tolist()
        # A scaler finds its scale by overshooting: inf under a large one is its own affair, not divergence.
        searching = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        overshot = searching and math.isfinite(loss) and not math.isfinite(norm)
        finite = not overshot and self.guard.admit(number, values[_VERDICT])
        if finite:
            _set_rate(optimizer, numbers["lr"])
            self.scaler.step(optimizer)
            numbers |= _named(readings.names, values, "" if role == next(iter(self.optimizers)) else f"{role}_")
        self.scaler.update()
        return finite

    def _step_ahead(self, parts: list[Any], number: int, rate: float) -> None:
        """Put a step into the device's queue, and settle the one before while the device is at it."""
        ((role, optimizer),) = self.optimizers.items()
        readings = self._passes(role, parts)
        assert readings is not None, "a single role always has a gradient"
        self.flush()  # Its average is of weights that this step has not moved yet.
        _set_rate(optimizer, rate)
        # The fused kernels leave weights, moments and their count alone where this is 1, as under a GradScaler.
        skipped = ~torch.isfinite(readings.values[_VERDICT]).all()
        optimizer.grad_scale, optimizer.found_inf = None, skipped.float()  # type: ignore[attr-defined]
        optimizer.step()
        self._unsettled = _sent(number, rate, readings)

    def _passes(self, role: str, parts: list[Any]) -> _Readings | None:
        """Run a role's passes up to its clipped gradients; None where it sits out. Never waits for the device."""
        optimizer, gradients = self.optimizers[role], self.means[role]
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.policy.device)
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(parts, 1):
            with self.policy.autocast():
                loss, details = self.task.loss(role, part)
            if not loss.requires_grad:
                return None
            if number == len(parts):
                gradients.sync_next_backward()
            self.scaler.scale(loss / len(parts)).backward()
            total += loss.detach() / len(parts)
            for name, value in details.items():
                share = value.detach().to(total.device, _widest(total.device)) / len(parts)
                sums[name] = sums[name] + share if name in sums else share
        gradients.wait()
        numbers = torch.stack([total.to(_widest(total.device)), *sums.values()])
        if processes.world().size > 1:
            numbers = processes.all_reduce_mean(numbers)
            numbers[0] = numbers[0].float()
        self.scaler.unscale_(optimizer)
        norm = clip_gradients(optimizer, self.optim, sharded=self.sharded is not None)
        return _Readings([*sums], torch.cat([numbers[:1], norm.to(numbers).reshape(1), numbers[1:]]))

    def _shard(self) -> "Sharded":
        from .sharding import Sharded  # torch takes a second to load what it needs

        (network,) = self.task.networks.values()
        assert network is self.task.modules and network is self.task.averaged, "one network, and nothing beside it"
        return Sharded(network, self.policy)

    def _may_run_ahead(self) -> bool:
        alone = len(self.optimizers) == 1 and not self.scaler.is_enabled()
        return self.policy.device.type == "cuda" and alone and not self.task.synchronous


def _named(names: list[str], values: Tensor, prefix: str) -> dict[str, float]:
    """Return the numbers to log of one role."""
    loss, norm, *others = values.tolist()
    return {**dict(zip(names, others, strict=True)), f"{prefix}loss": loss, f"{prefix}grad_norm": norm}


def _sent(number: int, rate: float, readings: _Readings) -> _Unsettled:
    """Send readings to the CPU without waiting for them."""
    values = readings.values
    if values.device.type != "cuda":
        return _Unsettled(number, rate, readings.names, values.cpu(), None)
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(values.device))  # Another GPU may be the current one.
    return _Unsettled(number, rate, readings.names, host, arrived)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _widest(device: torch.device) -> torch.dtype:
    """Float64 wherever it exists; Apple's GPUs have none."""
    return torch.float32 if device.type == "mps" else torch.float64
