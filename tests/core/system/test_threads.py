"""Threads follow the quota and wait briefly, unless the user says otherwise; what is set reaches torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ldm.core.system import machine, threads

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "load", lambda: 0.0)


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


def test_on_a_crowded_machine_threads_do_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "num_cores", lambda within_quota=True: 2)
    for load, spins in ((0.3, "1000"), (3.0, "1000"), (4.5, "0")):
        monkeypatch.setattr(machine, "load", lambda load=load: load)
        environment: dict[str, str] = {}
        threads.set_up(environment)
        assert environment == {"GOMP_SPINCOUNT": spins}


def test_without_a_quota_torch_chooses_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_quota", lambda: None)
    environment: dict[str, str] = {}
    threads.set_up(environment)
    assert environment == {"GOMP_SPINCOUNT": "1000"}


def test_the_command_sets_them_before_torch_is_loaded() -> None:
    program = """
import os, sys
from ldm.cli import main
from ldm.core.system import machine
machine.cpu_quota, machine.load = lambda: 0.5, lambda: 0.0
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
