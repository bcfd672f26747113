"""benchmarks/gpu.sh, of which every part is tried where there is no GPU: it is to be ready when there is one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import data_sheet
from benchmarks.gpu_sizes import FULL, TINY

ROOT = Path(__file__).parents[1]

FIGURES = {
    "training": {"images_per_second", "mfu_of_measured", "memory_estimated_gbytes"},
    "sampling": {"eager_images_per_second", "eager_share_of_decoding"},
    "kernels": {"seconds_per_step", "longest"},
    "autoencoder": {"training_images_per_second", "encoding_images_per_second"},
    "loader": {"latents_per_second"},
}


@pytest.mark.slow
def test_every_part_of_the_script_runs_where_there_is_no_gpu(tmp_path: Path) -> None:
    script = [ROOT / "benchmarks" / "gpu.sh", "--smoke", "--out", tmp_path]
    # The tests themselves are in this very run; here they are only found.
    surroundings = {**os.environ, "PYTHON": sys.executable, "PYTEST_ADDOPTS": "--collect-only", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(script, env=surroundings, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "test_gpu_training.py" in (tmp_path / "gpu-tests.txt").read_text()
    facts = json.loads((tmp_path / "gpu-smoke.json").read_text())["facts"]
    assert len(facts) == len(TINY.trainings) + len(TINY.sampled) + 3
    for name, found in facts.items():
        expected = FIGURES[name.split()[0]]
        assert expected <= found.keys(), name
        assert all(found[figure] for figure in expected), name
    for name in facts:
        assert f"{name}: " in ended.stdout


def test_the_full_sizes_are_those_that_the_papers_trained() -> None:
    assert {"dit-s/2", "dit-b/2", "dit-xl/2"} == {case.preset for case in FULL.trainings} == set(FULL.sampled)
    assert all(case.side == 32 for case in FULL.trainings) and FULL.profiled in FULL.trainings


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        ("NVIDIA B200", "b200"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("Tesla T4", "t4"),
        ("NVIDIA T400", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_a_gpu_is_known_by_the_name_it_gives_itself(name: str, machine: str | None) -> None:
    assert data_sheet(name) == machine
