"""Threads follow the quota and spin while nobody else wants the cores, unless the user says otherwise."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ldm.core.system import machine, threads

ROOT = Path(__file__).resolve().parents[3]


class Clock:
    """Seconds that grow by `rate` whenever it is asked."""

    seconds = rate = 0.0
    asked = 0

    def __call__(self) -> float:
        self.asked += 1
        self.seconds += self.rate
        return self.seconds


@pytest.fixture
def half_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_quota", lambda: 0.5)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


@pytest.mark.usefixtures("half_a_core")
def test_half_a_core_is_one_thread_and_doctor_says_why() -> None:
    environment: dict[str, str] = {}
    threads.set_up(environment)
    assert environment == {"GOMP_SPINCOUNT": "1000", "OMP_NUM_THREADS": "1"}
    assert threads.described(environment, 1) == "1 on 2 cores, of which a quota leaves 0.5; GOMP_SPINCOUNT=1000"


@pytest.mark.usefixtures("half_a_core")
@pytest.mark.parametrize("own", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_what_the_user_has_set_stays(own: dict[str, str]) -> None:
    environment = {**own, "OMP_NUM_THREADS": "2"}
    threads.set_up(environment)
    assert environment == {**own, "OMP_NUM_THREADS": "2"}


def test_on_all_cores_nothing_is_set_where_linux_tells_how_long_threads_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_quota", lambda: None)
    for waited, expected in ((1.5, {}), (None, {"GOMP_SPINCOUNT": "1000"})):
        monkeypatch.setattr(machine, "waited_for_cores", lambda waited=waited: waited)
        environment: dict[str, str] = {}
        threads.set_up(environment)
        assert environment == expected
    assert threads.described({}, 2).endswith("spinning while no other process wants the cores")


def test_a_team_is_kept_while_own_threads_wait_for_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    waited, period = Clock(), 0.01
    monkeypatch.setattr(machine, "waited_for_cores", waited)
    monkeypatch.setattr(threads, "_PERIOD", period)
    stopped = threading.Event()
    watching = threading.Thread(target=threads._watch, args=(stopped,))
    watching.start()
    try:
        for rate, teams in ((0.2, 0), (0.3, 1), (0.8, 1), (0.1, 0), (0.5, 1), (0.0, 0)):
            waited.rate = rate * period
            asked = waited.asked
            while waited.asked < asked + 3 * threads._QUIET:
                time.sleep(period)
            assert sum(thread.name.endswith("-team") for thread in threading.enumerate()) == teams, rate
    finally:
        stopped.set()
        watching.join()


@pytest.mark.skipif(machine.waited_for_cores() is None, reason="Linux tells how long threads wait, and nothing else")
def test_threads_that_share_a_core_wait_for_it() -> None:
    program = """
import os, time
from ldm.core.system.machine import waited_for_cores
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
before, end = waited_for_cores(), time.monotonic() + 0.5
def spin():
    while time.monotonic() < end:
        pass
child = os.fork()
spin()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
print(waited_for_cores() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert float(done.stdout) > 0.1, done.stderr


def test_one_thread_and_what_the_user_set_are_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    def watching() -> bool:
        threads.share_cores()
        return any(thread.name == threads._NAME for thread in threading.enumerate())

    monkeypatch.setattr(threads, "_watch", lambda stopped: stopped.wait(0.5))
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert not watching()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert not watching()
    monkeypatch.delenv("GOMP_SPINCOUNT")
    assert watching() is (machine.waited_for_cores() is not None)


def test_the_command_sets_them_before_torch_is_loaded() -> None:
    program = """
import os, sys
from ldm.cli import main
from ldm.core.system import machine
machine.cpu_quota = lambda: 0.5
machine.os.sched_getaffinity = lambda _: {0, 1, 2}
sys.argv = ["ldm", "--version"]
try:
    main.main()
except SystemExit:
    pass
assert "torch" not in sys.modules
import torch
print(os.environ["GOMP_SPINCOUNT"], torch.get_num_threads())
"""
    environment = {
        name: value for name, value in os.environ.items() if name not in (*threads._OWN_WAITING, threads.THREADS)
    }
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "1000 1", done.stderr


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux lists the threads of a process")
def test_a_background_thread_has_no_team_and_the_others_have_as_many_threads_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads.background("alone") as pool, ThreadPoolExecutor(1) as later:
            values = torch.ones(threads._ENOUGH).neg_()
            running = num_threads()
            pool.submit(values.neg_).result()
            assert num_threads() == running
            assert pool.submit(torch.get_num_threads).result() == 1
            assert torch.get_num_threads() == 2
            later.submit(values.neg_).result()
            assert num_threads() == running + 2  # the thread, and one for its team
    finally:
        torch.set_num_threads(before)


def num_threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())
