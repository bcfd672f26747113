"""Signals set a flag and nothing else; a second Ctrl-C ends the process at once. Real signals, real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ldm.core.errors import Stopped
from ldm.core.system.signals import stop_flag, stopping_at_once

WAITS_IN_THE_BLOCK = """
import sys, time
sys.path.insert(0, sys.argv[1])
from ldm.core.system.signals import stop_flag
with stop_flag() as stop:
    print("ready", flush=True)
    while not stop:
        time.sleep(0.01)
    print(stop.received.name, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGUSR1"])
def test_a_signal_sets_the_flag_and_the_old_handlers_come_back(name: str) -> None:
    number = signal.Signals[name]
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    with stop_flag() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop and stop.received == number
        error = stop.stopped("after 128 images")
    assert error.exit_code == 75
    assert str(error) == f"stopped by {name} after 128 images (run the same command again to continue)"
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before


def test_the_old_handlers_come_back_after_an_error_too() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), stop_flag():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_outside_a_loop_ends_the_work_at_once_with_75(name: str) -> None:
    before = signal.getsignal(signal.Signals[name])
    with pytest.raises(Stopped, match=f"stopped by {name}") as caught, stopping_at_once():
        with stop_flag() as stop:
            os.kill(os.getpid(), signal.Signals[name])
            assert stop, "in a loop it sets the flag"
        os.kill(os.getpid(), signal.Signals[name])
    assert caught.value.exit_code == 75
    assert signal.getsignal(signal.Signals[name]) == before


def test_a_signal_in_a_finaliser_where_python_drops_what_is_raised_ends_the_work_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Finalised:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    before = sys.unraisablehook
    with pytest.raises(Stopped, match="stopped by SIGTERM"), stopping_at_once():
        Finalised()
        time.sleep(30)
        raise AssertionError("it went on")
    assert not capsys.readouterr().err and sys.unraisablehook == before


def test_a_reader_that_makes_an_error_of_its_own_of_a_signal_does_not_hide_it() -> None:
    with pytest.raises(Stopped, match="stopped by SIGTERM"), stopping_at_once():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            raise ValueError("not a readable file") from None


def test_signals_that_are_ignored_stay_so_as_nohup_asks() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping_at_once(), stop_flag() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_error_after_a_signal_counts_as_the_stop_and_one_without_is_itself() -> None:
    with pytest.raises(Stopped, match="stopped by SIGINT in the middle of a step") as caught, stop_flag():
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("the compiler was interrupted")
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(RuntimeError), stop_flag():
        raise RuntimeError


@pytest.mark.promise("R6")
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_after_a_first_signal_ends_the_process_at_once_with_130(first: signal.Signals) -> None:
    arguments = [sys.executable, "-c", WAITS_IN_THE_BLOCK, str(Path(__file__).parents[3])]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            process.send_signal(first)
            assert process.stdout.readline() == f"{first.name}\n"
            if first == signal.SIGTERM:
                process.send_signal(signal.SIGTERM)  # A scheduler repeats itself; that is no Ctrl-C.
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.2)
            process.send_signal(signal.SIGINT)
            assert process.wait(2) == 130
        finally:
            process.kill()
