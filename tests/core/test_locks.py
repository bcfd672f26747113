"""Locks of files, with what Unix has and as Windows has to do without it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ldm.core import locks

HELD = """
import os, sys
from ldm.core import locks
print(locks.lock(os.open(sys.argv[1], os.O_RDWR), shared=sys.argv[2] == "shared"))
"""
# A Python without what only Unix has.
WITHOUT = """
import os, signal, sys, psutil, torch  # They have their own ways on each system.
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL"):
    delattr(signal, name)
signal.Signals = __import__("enum").IntEnum("Signals", {name: getattr(signal, name) for name in ("SIGINT", "SIGTERM")})
for name in ("O_NONBLOCK", "getloadavg", "sched_getaffinity", "mkfifo", "posix_fadvise"):
    delattr(os, name)
"""


def locked_elsewhere(path: Path, how: str) -> str:
    command = [sys.executable, "-c", HELD, str(path), how]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_one_process_has_a_lock_and_several_a_shared_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    handle = os.open(path, os.O_RDWR)
    assert locks.lock(handle, shared=True)
    assert (locked_elsewhere(path, "shared"), locked_elsewhere(path, "alone")) == ("True", "False")
    assert locks.lock(handle)
    assert locked_elsewhere(path, "shared") == "False"
    os.close(handle)
    assert locked_elsewhere(path, "alone") == "True"


@pytest.mark.slow
def test_the_command_line_loads_and_a_stage_occupies_its_folder_without_what_only_unix_has(tmp_path: Path) -> None:
    """The lock of a byte is replaced here, as msvcrt is Windows' own; the page on systems says what was tried where."""
    program = (
        WITHOUT
        + """
from ldm.core import locks
taken = []
locks._lock_byte = lambda handle: taken.append(handle)
from pathlib import Path
from ldm.core.runs.lock import occupy
from ldm.core.system.signals import finish_flag, stop_flag, stopping_at_once
import ldm.core.latents.readers, ldm.core.training.loop, ldm.stages.sample, ldm.stages.tools.verify
with stopping_at_once(), stop_flag(), finish_flag(), occupy(Path(sys.argv[1])):
    pass
assert len(taken) == 1
from ldm.cli.main import run
sys.exit(run(["doctor", "--quick", "--device", "cpu", "--runs-dir", sys.argv[1]]))
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "runs")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "nothing is broken" in done.stdout
