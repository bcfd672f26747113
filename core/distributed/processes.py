"""Several processes of torchrun at one stage: rank and world size, collectives, and errors that end all of them.

Single integers (stop requests, errors, flags) travel by gloo on the CPU, and only there does a process wait for one
that has more to do; tensors travel by NCCL between GPUs, elsewhere by gloo. With one process every collective returns
its input. Every process does the same work, or a share of it by its rank; only the main process (rank 0) writes.
"""

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import ConfigError, LostProcess, OtherProcessFailed, Stopped, UserError
from ..system.signals import StopFlag, ended_by_signals

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_TORCHRUN_VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_INTEGER_TIMEOUT = timedelta(days=2)  # the main process may evaluate or write; one that dies is noticed at once
_TENSOR_TIMEOUT = timedelta(minutes=20)


@dataclass(frozen=True)
class World:
    """Number of processes, and this one's rank among all and among those on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return this process's part of `count` items; the parts in order of rank are all items."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)


@dataclass
class _Group:
    """The process groups that were joined: the default one for integers, `tensors` for tensors."""

    world: World
    tensors: dist.ProcessGroup


_group: _Group | None = None
_joined = itertools.count()  # numbers the groups of this process, one after the other


def world() -> World:
    """Return this process's world; of size 1 outside `process_group`."""
    return _group.world if _group else World()


def world_from_env() -> World:
    """Return the world in torchrun's environment variables. Raises ConfigError where they are incomplete."""
    size = _env_int("WORLD_SIZE", "1")
    if size == 1:
        return World()
    missing = [name for name in _TORCHRUN_VARIABLES if name not in os.environ]
    if missing:
        remedy = "start with torchrun, or unset WORLD_SIZE"
        raise ConfigError(f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set", remedy)
    return World(_env_int("RANK", "0"), size, _env_int("LOCAL_RANK", "0"))


def require_equal_shares(batch_size: int, accumulate: int, num_processes: int) -> None:
    """Raise ConfigError for a batch that does not split into equal shares."""
    if batch_size % (num_processes * accumulate):
        raise ConfigError(
            f"`train.batch_size={batch_size}`: {num_processes} processes in {accumulate} passes cannot share it",
            f"give a multiple of {num_processes * accumulate}",
        )


def local_device(wanted: str) -> str:
    """Return this process's device, where `wanted` is `machine.device`: under torchrun, the GPU of its local rank.

    Raises ConfigError for one GPU among several processes, more processes than GPUs, and mps.
    """
    world = world_from_env()
    if world.size == 1 or wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return "cpu" if world.size > 1 else wanted
    if wanted not in ("auto", "cuda"):
        raise ConfigError(f"`machine.device={wanted}`, but there are {world.size} processes", "give cuda or cpu")
    num_gpus = torch.cuda.device_count()
    if torch.cuda.is_available() and world.local_rank >= num_gpus:
        raise ConfigError(
            f"a process has the local rank {world.local_rank}, but its machine has {num_gpus} GPUs",
            f"start with --nproc-per-node {num_gpus}",
        )
    return f"cuda:{world.local_rank}"


@contextmanager
def process_group(device: torch.device) -> Iterator[World]:
    """Join torchrun's other processes for a block: all complete it, or all end with the first failure's exit code.

    The process that failed raises its own error, the others raise OtherProcessFailed at their next `barrier` or
    `all_gather_int`.
    """
    global _group
    assert _group is None, "this process has joined already"
    world = world_from_env()
    if world.size == 1:
        yield world
        return
    _group = _join(world, device)
    orderly = True
    try:
        yield world
        barrier()
    except BaseException as error:
        _ignore_sigterm()
        cut_short = isinstance(error, Stopped) and error.__cause__ is not None  # in the middle of a step
        if isinstance(error, UserError) and not isinstance(error, LostProcess) and not cut_short:
            # The others learn of it at their next barrier. If several fail at once, the lowest rank reports.
            error.reported = True  # type: ignore[attr-defined]
            codes = [code for code, _ in _all_gather(error.exit_code, 0)]
            first = next(rank for rank, code in enumerate(codes) if code)
            if first != world.rank:
                raise OtherProcessFailed(codes[first]) from error
        elif not isinstance(error, OtherProcessFailed):
            # A bug may appear while the others wait for tensors: only the end of this process wakes them.
            error.reported = True  # type: ignore[attr-defined]
            orderly = False
        raise
    finally:
        _group = None
        if orderly:  # Otherwise this might wait for processes that wait for this one.
            dist.destroy_process_group()


@contextmanager
def _detect_lost_process() -> Iterator[None]:
    """Turn the transport's error for a process that has ended into LostProcess."""
    try:
        yield
    except RuntimeError as error:
        remedy = "read its last message, then run the same command again"
        raise LostProcess("another process of this run has ended", remedy) from error


def barrier() -> None:
    """Wait for all processes. Raises OtherProcessFailed where one has failed, LostProcess where one has ended."""
    all_gather_int()


def all_gather_int(value: int = 0) -> list[int]:
    """Return every process's value, by rank. A `barrier`, and raises as one."""
    if _group is None:
        return [value]
    gathered = _all_gather(0, value)
    failed = [code for code, _ in gathered if code]
    if failed:
        _ignore_sigterm()
        raise OtherProcessFailed(failed[0])
    return [each for _, each in gathered]


def broadcast_int(value: int) -> int:
    """Return the main process's value. A `barrier`, and raises as one."""
    return all_gather_int(value)[0]


def stop_requested(stop: StopFlag) -> bool:
    """Return whether a signal asked any process to stop; the flag of each is then set. A `barrier`."""
    received = max(all_gather_int(stop.received or 0))
    if received:
        stop.received = signal.Signals(received)
    return bool(stop)


@_detect_lost_process()
def broadcast_flags(flags: list[bool]) -> list[bool]:
    """Return the main process's flags: what each process reads, as from a disk, may differ. A `barrier`."""
    if _group is None:
        return flags
    barrier()
    buffer = torch.tensor(flags, dtype=torch.uint8)
    dist.broadcast(buffer, src=0)
    return [bool(flag) for flag in buffer]


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Return the mean over the processes of a tensor of the same shape in each."""
    if _group is None:
        return tensor
    total = tensor.detach().contiguous().clone()
    start_all_reduce(total)()
    return total / _group.world.size


@_detect_lost_process()
def start_all_reduce(tensor: Tensor) -> Callable[[], object]:
    """Start replacing a contiguous tensor by its sum over the processes; returns a function that waits for it.

    On a GPU waiting only orders later work behind the sum.
    """
    assert _group is not None, "needs a second process to sum with"
    work = dist.all_reduce(tensor, group=_group.tensors, async_op=True)
    assert work is not None
    return _detect_lost_process()(work.wait)


@_detect_lost_process()
def all_gather_rows(tensor: Tensor) -> Tensor:
    """Return the rows of all processes, in order of rank; each has as many of the same shape."""
    if _group is None:
        return tensor
    rows = tensor.new_empty(_group.world.size * len(tensor), *tensor.shape[1:])
    dist.all_gather_into_tensor(rows, tensor.contiguous(), group=_group.tensors)
    return rows


@torch.no_grad()
@_detect_lost_process()
def broadcast_from_main(tensors: Iterable[Tensor]) -> None:
    """Replace tensors in place by the main process's: the same computation may differ in its last bits."""
    if _group is None:
        return
    for tensor in tensors:
        buffer = tensor.detach().contiguous()
        dist.broadcast(buffer, src=0, group=_group.tensors)
        tensor.copy_(buffer)


def device_mesh(device: torch.device) -> "DeviceMesh":
    """Return the processes as the mesh that `fully_shard` takes."""
    from torch.distributed.device_mesh import DeviceMesh

    assert _group is not None, "needs a second process to shard over"
    return DeviceMesh.from_group(_group.tensors, device.type)


@_detect_lost_process()
def _join(world: World, device: torch.device) -> _Group:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Until all have met nothing is written, and a connection that a signal interrupts is tried again for minutes.
    with ended_by_signals():
        store, rank, size = next(iter(dist.rendezvous("env://", timeout=_TENSOR_TIMEOUT)))
        # torchrun's store remembers the addresses of groups that have ended: of a chain of trainings, each has its own.
        store = dist.PrefixStore(f"ldm/{next(_joined)}", store)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_INTEGER_TIMEOUT)
        backend = "nccl" if device.type == "cuda" else "gloo"
        return _Group(world, dist.new_group(backend=backend, timeout=_TENSOR_TIMEOUT))


@_detect_lost_process()
def _all_gather(exit_code: int, value: int) -> list[list[int]]:
    assert _group is not None
    local = torch.tensor([exit_code, value], dtype=torch.int64)
    pieces = [torch.empty_like(local) for _ in range(_group.world.size)]
    dist.all_gather(pieces, local)
    return [piece.tolist() for piece in pieces]


def _ignore_sigterm() -> None:
    """Ignore torchrun's signal to the others once one has ended: they are about to end with their own exit codes."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _env_int(name: str, default: str) -> int:
    text = os.environ.get(name, default)
    if not text.isdecimal() or (name == "WORLD_SIZE" and text == "0"):
        raise ConfigError(f"the variable {name} is {text!r}, not a process number", "start with torchrun or unset it")
    return int(text)
