"""`ldm` commands in processes of their own, started in milliseconds: forked from one that has imported everything.

A command is a real process with the real command line in it: it can be killed, limited and timed, and its exit code
and words are those a user gets. Only the seconds that importing takes are spared. Run as a program, this file is the
process that forks; `Launcher` talks to it.
"""

import contextlib
import importlib
import io
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = (
    *("ldm.cli.main", "ldm.cli.layers", "ldm.cli.options", "ldm.cli.show", "ldm.cli.events", "ldm.cli.live"),
    *(
        f"ldm.stages.{name}"
        for name in ("train_autoencoder", "encode", "train_denoiser", "train_classifier", "sample", "eval")
    ),
    *("ldm.stages.tools.verify", "ldm.stages.tools.inspect", "matplotlib.figure", "matplotlib.backends.backend_agg"),
    *(
        "scipy",
        "diffusers.models.autoencoders.autoencoder_kl",
        "torch.utils.tensorboard",
        "torch._dynamo",
        "PIL.JpegImagePlugin",
        "PIL.PngImagePlugin",
    ),
    "tests.support.fuzzing",
)
PATIENCE = 300.0  # seconds after which a command that has not ended is a failure of its test


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    code: its exit code, or minus the signal that ended it. seconds: from start to end. busy: of a processor's time,
    which does not depend on what else the machine does.
    """

    code: int
    seconds: float
    busy: float
    out: str
    err: str


@dataclass
class Command:
    """A running command."""

    pid: int
    launcher: "Launcher"
    out: "Heard"
    err: "Heard"
    started: float = field(default_factory=time.monotonic)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def running(self) -> bool:
        return self.launcher.ask(wait=self.pid, patience=0)["code"] is None

    def wait(self, patience: float = PATIENCE) -> Ended:
        answer = self.launcher.ask(wait=self.pid, patience=patience)
        if answer["code"] is None:
            self.send(signal.SIGKILL)
            self.launcher.ask(wait=self.pid, patience=PATIENCE)
        said = [self.out.text(), self.err.text()]
        assert answer["code"] is not None, f"still running after {patience} s: {said}"
        return Ended(answer["code"], answer["seconds"], answer["busy"], *said)


class Launcher:
    """Starts commands.

    limits: of `resource`, by name without RLIMIT_; `AS` in bytes beyond what the process has at its start. user: the
    number of the user that the command runs as. environment: variables it has besides this process's own. function:
    what is called with the arguments in place of the command line, `module:name`, in a module of `ldm` or of the tests.
    """

    def __init__(self, preload: bool = True) -> None:
        """Start the process that forks. preload: without it, that process has imported nothing but this file."""
        ours, theirs = socket.socketpair()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno()), *(["preload"] if preload else [])],
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            env=environment,
        )
        theirs.close()
        self._socket = ours

    def start(
        self,
        *arguments: object,
        limits: dict[str, int] | None = None,
        user: int | None = None,
        environment: dict[str, str] | None = None,
        function: str = "ldm.cli.main:run",
    ) -> Command:
        outputs = [os.pipe(), os.pipe()]
        words = [str(word) for word in arguments]
        order = {"arguments": words, "limits": limits or {}, "user": user, "function": function}
        order |= {"environment": environment or {}}
        answer = self.ask([writing for _, writing in outputs], start=order)
        for _, writing in outputs:
            os.close(writing)
        return Command(answer["pid"], self, Heard(outputs[0][0]), Heard(outputs[1][0]))

    def run(self, *arguments: object, **conditions: Any) -> Ended:
        """Start a command and wait for its end."""
        return self.start(*arguments, **conditions).wait()

    def ask(self, handles: list[int] | None = None, **order: Any) -> dict[str, Any]:
        socket.send_fds(self._socket, [json.dumps(order).encode()], handles or [])
        answer = self._socket.recv(1 << 16)
        assert answer, "the launching process has died"
        return dict(json.loads(answer))

    def close(self) -> None:
        self._socket.close()
        self._process.wait(30)


class Heard:
    """What comes out of a pipe, read as it comes: a command that says much must not wait for somebody to listen."""

    def __init__(self, handle: int) -> None:
        self._handle, self._pieces = handle, list[bytes]()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def text(self) -> str:
        """Return all of it, once whoever wrote has ended."""
        self._reader.join()
        return b"".join(self._pieces).decode(errors="replace")

    def _read(self) -> None:
        while piece := os.read(self._handle, 1 << 16):
            self._pieces.append(piece)
        os.close(self._handle)


def _serve(orders: socket.socket) -> None:
    """Fork a command, or wait for one, for each order until there are no more."""
    started: dict[int, float] = {}
    ended: dict[int, dict[str, Any]] = {}
    while True:
        message, handles, _, _ = socket.recv_fds(orders, 1 << 16, 2)
        if not message:
            break
        order = json.loads(message)
        if "start" in order:
            pid = os.fork()
            if pid == 0:
                orders.close()
                _become(order["start"], handles)
            started[pid] = time.monotonic()
            ended.pop(pid, None)  # of an earlier command: numbers of processes come again after 32,768
            for handle in handles:
                os.close(handle)
            answer: dict[str, Any] = {"pid": pid}
        else:
            deadline = time.monotonic() + order["patience"]
            while True:
                _collect(started, ended)
                answer = ended.get(order["wait"], {"code": None})
                if answer["code"] is not None or time.monotonic() >= deadline:
                    break
                if select.select([orders], [], [], 0.001)[0]:  # Whoever asked no longer waits: a Ctrl-C ends the tests.
                    break
        with contextlib.suppress(BrokenPipeError):  # Nobody waits for it any more: the next order is none.
            orders.send(json.dumps(answer).encode())
    for pid in started.keys() - ended.keys():
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


def _collect(started: dict[int, float], ended: dict[int, dict[str, Any]]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status, used = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            seconds, busy = time.monotonic() - started[pid], used.ru_utime + used.ru_stime
            ended[pid] = {"code": os.waitstatus_to_exitcode(status), "seconds": seconds, "busy": busy}


def _become(order: dict[str, Any], handles: list[int]) -> None:
    """Be the command, in a process that was forked for it."""
    code = 1
    try:
        os.dup2(handles[0], 1)
        os.dup2(handles[1], 2)
        os.environ |= order["environment"]
        for name, value in order["limits"].items():
            limit = value + _address_space() if name == "AS" else value
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
        if order["user"] is not None:
            os.setuid(order["user"])
        module, _, name = order["function"].partition(":")
        sys.argv = ["ldm", *order["arguments"]]
        code = getattr(importlib.import_module(module), name)(order["arguments"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _preload() -> None:
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import torch
    from matplotlib.figure import Figure

    torch.set_num_threads(1)
    Figure().subplots().figure.savefig(io.BytesIO(), format="png")  # The first picture looks for fonts.


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    if "preload" in sys.argv[2:]:
        _preload()
    _serve(socket.socket(fileno=int(sys.argv[1])))
