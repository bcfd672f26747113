"""Several processes at one piece of work: who they are, how they agree, and how they end together.

torchrun starts them and says in the environment who is who. Numbers that all must know (whether to stop, whether one
has failed) go over a channel of their own, on the CPU, and there alone the processes wait for one that has more to do;
tensors go from GPU to GPU by NCCL, elsewhere by gloo. With one process all of this is nothing, to the bit.

The first process leads: only it writes. What every process does is the same, or a share cut by its rank.
"""

import os
import signal
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import ConfigError, EndedElsewhere, OutOfTouch, UserError
from ..system.signals import StopFlag

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_LONGEST_WAIT = timedelta(days=2)  # for a leader that measures or writes; a process that ends is noticed at once
_LONGEST_TRANSFER = timedelta(minutes=20)


@dataclass(frozen=True)
class World:
    """How many processes there are, which one this is among all and on its machine, counted from 0."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return which of `count` things in a row are this process's; the shares in order of rank are the row."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)


@dataclass
class _Ties:
    """What joins this process to the others: numbers go over `group`, tensors over `tensors`."""

    world: World
    tensors: dist.ProcessGroup


_ties: _Ties | None = None


def world() -> World:
    """Return the world that this process has joined; alone in it where it joined none."""
    return _ties.world if _ties else World()


def announced() -> World:
    """Return the world that torchrun's variables announce. Raises ConfigError where they do not make sense."""
    size = _number("WORLD_SIZE", "1")
    if size == 1:
        return World()
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        remedy = "start with torchrun, or unset WORLD_SIZE"
        raise ConfigError(f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set", remedy)
    return World(_number("RANK", "0"), size, _number("LOCAL_RANK", "0"))


def require_shares(batch_size: int, accumulate: int, num_processes: int) -> None:
    """Raise ConfigError for a batch that does not split into equal shares: to be called before anything is written."""
    if batch_size % (num_processes * accumulate):
        raise ConfigError(
            f"train.batch_size is {batch_size}, which {num_processes} processes in {accumulate} passes cannot share",
            f"give a multiple of {num_processes * accumulate}",
        )


def own_device(wanted: str) -> str:
    """Return the device of this process where `wanted` (as --device) is for all: the GPU of its place on its machine.

    Raises ConfigError for one GPU among several processes, more processes than GPUs, and mps.
    """
    announcement = announced()
    if announcement.size == 1 or wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return "cpu" if announcement.size > 1 else wanted
    if wanted not in ("auto", "cuda"):
        raise ConfigError(f"--device is {wanted}, but there are {announcement.size} processes", "give cuda or cpu")
    there = torch.cuda.device_count()
    if torch.cuda.is_available() and announcement.local_rank >= there:
        raise ConfigError(
            f"a process has the number {announcement.local_rank} on its machine, which has {there} GPUs",
            f"start with --nproc-per-node {there}",
        )
    return f"cuda:{announcement.local_rank}"


class joined:  # noqa: N801
    """Be one of the processes for a block: all get through it, or all end with the exit code of the first that failed.

    That one raises its error as it is; the others raise EndedElsewhere as soon as they come to an `exchange`.
    """

    def __init__(self, device: torch.device) -> None:
        self.world, self.device = announced(), device

    def __enter__(self) -> World:
        global _ties
        assert _ties is None, "this process has joined already"
        if self.world.size > 1:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            with _noticing_loss():
                store, rank, size = next(iter(dist.rendezvous("env://", timeout=_LONGEST_TRANSFER)))
                dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_LONGEST_WAIT)
                backend = "nccl" if self.device.type == "cuda" else "gloo"
                _ties = _Ties(self.world, dist.new_group(backend=backend, timeout=_LONGEST_TRANSFER))
        return self.world

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.world.size == 1:
            return
        try:
            if error is None:
                exchange()
            else:
                self._fail(error)
        finally:
            _leave(orderly=error is None or isinstance(error, EndedElsewhere) or _can_be_told(error))

    def _fail(self, error: BaseException) -> None:
        """Let the others know. Raises EndedElsewhere where another has failed too and will tell why."""
        _end_unhurried()
        if isinstance(error, EndedElsewhere):
            return
        error.told = True  # type: ignore[attr-defined]
        if not _can_be_told(error):
            return  # The others may be waiting for tensors and deaf to numbers: that this process ends wakes them.
        assert isinstance(error, UserError)
        codes = [code for code, _, _ in _gather(error.exit_code, 0, 0)]
        first = next(rank for rank, code in enumerate(codes) if code)
        if first != self.world.rank:
            raise EndedElsewhere(codes[first]) from error


def exchange(first: int = 0, second: int = 0) -> list[tuple[int, int]]:
    """Give two whole numbers to all processes and return everybody's, by rank, once all have come here.

    Raises EndedElsewhere where another has failed instead, and OutOfTouch where one is gone without a word.
    """
    if _ties is None:
        return [(first, second)]
    heard = _gather(0, first, second)
    failed = [code for code, _, _ in heard if code]
    if failed:
        _end_unhurried()
        raise EndedElsewhere(failed[0])
    return [(a, b) for _, a, b in heard]


def stop_requested(stop: StopFlag) -> bool:
    """Return whether a signal asked any process for a stop; the flag of each then says so."""
    if _ties is not None:
        received = max(number for number, _ in exchange(stop.received or 0))
        if received:
            stop.received = signal.Signals(received)
    return bool(stop)


def as_leader_sees(facts: list[bool]) -> list[bool]:
    """Return the first process's own view of facts that each process looks up, which may change meanwhile."""
    if _ties is None:
        return facts
    exchange()
    seen = torch.tensor(facts, dtype=torch.uint8)
    with _noticing_loss():
        dist.broadcast(seen, src=0)
    return [bool(fact) for fact in seen]


def mean(tensor: Tensor) -> Tensor:
    """Return the mean over the processes of a tensor that each has of the same shape."""
    if _ties is None:
        return tensor
    total = tensor.detach().contiguous().clone()
    start_sum(total).wait()
    return total / _ties.world.size


class Transfer:
    """A sum that is under way."""

    def __init__(self, work: dist.Work | None) -> None:
        self._work = work

    def wait(self) -> None:
        """Return once the sum is there (on a GPU: is ordered before what comes next)."""
        if self._work is not None:
            with _noticing_loss():
                self._work.wait()


def start_sum(tensor: Tensor) -> Transfer:
    """Begin to replace a contiguous tensor by its sum over the processes."""
    if _ties is None:
        return Transfer(None)
    with _noticing_loss():
        return Transfer(dist.all_reduce(tensor, group=_ties.tensors, async_op=True))


def gather_rows(tensor: Tensor) -> Tensor:
    """Return the rows of all processes, in order of rank; each has as many of the same shape."""
    if _ties is None:
        return tensor
    own = tensor.contiguous()
    pieces = [torch.empty_like(own) for _ in range(_ties.world.size)]
    with _noticing_loss():
        dist.all_gather(pieces, own, group=_ties.tensors)
    return torch.cat(pieces)


def gather_to_leader(tensor: Tensor) -> Tensor | None:
    """Return the rows of all processes, in order of rank and as many of each, to the first one; None to the others."""
    if _ties is None:
        return tensor
    own = tensor.contiguous()
    rows = own.new_empty(_ties.world.size, *own.shape) if _ties.world.leads else None
    with _noticing_loss():
        dist.gather(own, list(rows) if rows is not None else None, dst=0, group=_ties.tensors)
    return rows.flatten(0, 1) if rows is not None else None


def mesh(device: torch.device) -> "DeviceMesh":
    """Return the processes as torch's sharding knows them."""
    from torch.distributed.device_mesh import DeviceMesh

    assert _ties is not None, "a process alone has no others to share with"
    return DeviceMesh.from_group(_ties.tensors, device.type)


@torch.no_grad()
def follow_leader(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by those of the first process: what was computed alike may differ in its last bits."""
    if _ties is None:
        return
    for tensor in tensors:
        buffer = tensor.detach().contiguous()
        with _noticing_loss():
            dist.broadcast(buffer, src=0, group=_ties.tensors)
        tensor.copy_(buffer)


def _gather(*numbers: int) -> list[list[int]]:
    assert _ties is not None
    own = torch.tensor(numbers, dtype=torch.int64)
    pieces = [torch.empty_like(own) for _ in range(_ties.world.size)]
    with _noticing_loss():
        dist.all_gather(pieces, own)
    return [piece.tolist() for piece in pieces]


class _noticing_loss:  # noqa: N801
    """Turn the transport's word for a process that is gone into OutOfTouch."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, RuntimeError):
            raise OutOfTouch(
                f"another process of this run is gone: {str(error).strip().splitlines()[0]}",
                "see what it said last, then run the same command again",
            ) from error


def _end_unhurried() -> None:
    """Ignore torchrun, which signals the others as soon as one has ended: they are about to, each with its code."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _can_be_told(error: BaseException) -> bool:
    """Whether the others will hear of an error: what a user can mend happens where they listen, a defect anywhere."""
    return isinstance(error, UserError) and not isinstance(error, OutOfTouch)


def _leave(orderly: bool) -> None:
    global _ties
    _ties = None
    if orderly:  # Otherwise it might wait for those that wait for this process.
        dist.destroy_process_group()


def _number(name: str, default: str) -> int:
    text = os.environ.get(name, default)
    if not text.isdecimal() or (name == "WORLD_SIZE" and text == "0"):
        raise ConfigError(f"the variable {name} is {text!r}, no number of processes", "start with torchrun or unset it")
    return int(text)
