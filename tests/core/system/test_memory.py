"""Freed memory stays with the process, unless its user decided otherwise."""

import platform
import subprocess
import sys

import pytest

from ldm.core.system.memory import keep_freed_memory

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only of the GNU C library")
FAULTS = """
import resource, sys, torch
from ldm.core.system.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def work():
    for _ in range(20):
        torch.zeros(40 << 20, dtype=torch.uint8)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@GLIBC
def test_memory_that_was_freed_is_not_asked_for_again() -> None:
    faults = {how: int(_run(FAULTS, how)) for how in ("keep", "leave")}
    assert faults["keep"] * 10 < faults["leave"]


@pytest.mark.parametrize("name", ["LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_ARENA_MAX"])
def test_a_user_who_chose_an_allocator_keeps_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()


def _run(program: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True)
    return done.stdout
