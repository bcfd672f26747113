"""What the system tells about itself is plausible, and asking leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ldm.core.system import machine


def test_memory_is_reported_in_bytes_and_below_all_there_is() -> None:
    free = machine.available_memory()
    assert free is not None
    assert 50e6 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_what_this_process_holds_grows_with_what_it_takes() -> None:
    # In a process of its own: this one may still hold what other tests gave back.
    program = "; ".join(
        [
            "import numpy as np",
            "from ldm.core.system.machine import used_memory",
            "before = used_memory()",
            "taken = np.ones(30_000_000)",
            "print((used_memory() - before) / taken.nbytes)",
        ]
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert 0.9 < float(said) < 1.5


def test_no_gpu_that_is_not_in_use_is_asked() -> None:
    assert machine.used_gpu_memory() is None


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_containers_limit_counts_and_what_is_only_cache_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = write(tmp_path / "memory.max", "1000000\n")
    used = write(tmp_path / "memory.current", "900000\n")
    stat = write(tmp_path / "memory.stat", "anon 5\ninactive_file 300000\nfile 400000\n")
    monkeypatch.setattr(machine, "_CGROUPS", ((limit, used, stat, "inactive_file"),))
    assert machine.available_memory() == 400_000
    write(tmp_path / "memory.max", "max\n")
    free = machine.available_memory()
    assert free is not None and free > 50e6


def test_cores_are_those_this_process_may_use() -> None:
    assert 1 <= machine.num_cores() <= (os.cpu_count() or 1)


def group(root: Path, **files: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(
    ("own", "inner", "outer", "quota", "cores"),
    [
        ("0::/pod/one\n", {"cpu__max": "50000 100000\n"}, {}, 0.5, 1),
        ("0::/pod/one\n", {"cpu__max": "max 100000\n"}, {"cpu__max": "250000 100000\n"}, 2.5, 3),
        ("0::/pod/one\n", {"cpu__max": "max 100000\n"}, {"cpu__max": "max 100000\n"}, None, 8),
        ("0::/elsewhere\n", {}, {}, None, 8),
        ("1:cpu,cpuacct:/pod/one\n", {"cpu__cfs_quota_us": "150000\n", "cpu__cfs_period_us": "100000\n"}, {}, 1.5, 2),
        ("1:cpu,cpuacct:/pod/one\n", {"cpu__cfs_quota_us": "-1\n", "cpu__cfs_period_us": "100000\n"}, {}, None, 8),
        ("0::/pod/one\n", {"cpu__max": "junk\n"}, {}, None, 8),
    ],
)
def test_the_tightest_quota_of_a_containers_groups_limits_the_cores(
    own: str,
    inner: dict[str, str],
    outer: dict[str, str],
    quota: float | None,
    cores: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "cgroup"
    below = root / "cpu,cpuacct" if own.startswith("1:") else root
    group(below / "pod", **outer)
    group(below / "pod" / "one", **inner)
    monkeypatch.setattr(machine, "_CGROUP_ROOT", root)
    monkeypatch.setattr(machine, "_OWN_CGROUPS", Path(write(tmp_path / "own", own)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert (machine.cpu_quota(), machine.num_cores(), machine.num_cores(within_quota=False)) == (quota, cores, 8)


def test_the_processor_has_a_name() -> None:
    assert machine.processor_name()


def test_the_nearest_folder_that_exists_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    assert machine.existing_parent(Path("a")) == machine.existing_parent(Path("a/b/c")) == tmp_path / "a"
    assert machine.existing_parent(Path("runs")) == tmp_path


def test_syncing_is_measured_and_its_file_removed(tmp_path: Path) -> None:
    assert machine.sync_rate(tmp_path, seconds=0.05) > 0.1
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="No such"):
        machine.sync_rate(tmp_path / "absent")
