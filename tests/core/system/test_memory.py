"""Freed memory stays with the process, unless its user decided otherwise."""

import platform
import subprocess
import sys

import pytest

from ldm.core.system.memory import keep_freed_memory

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only of the GNU C library")
FAULTS = """
import resource, torch
from ldm.core.system.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.zeros(40 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
leave = faults()
assert keep_freed_memory()
for _ in range(5):
    faults()
print(leave, faults())
"""


@GLIBC
def test_memory_that_was_freed_is_not_asked_for_again() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True)
    leave, keep = map(int, done.stdout.split())
    assert keep * 10 < leave and leave > 1000


@pytest.mark.parametrize("name", ["LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_ARENA_MAX"])
def test_a_user_who_chose_an_allocator_keeps_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()
