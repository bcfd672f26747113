"""The doctor finds what is there and what is missing, runs every stage, and leaves nothing behind."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm.cli.doctor import run
from ldm.cli.main import run as ldm
from ldm.cli.self_test import try_stages
from ldm.core.progress import Silent
from ldm.core.system.precision import bf16_units, resolve
from ldm.core.system.settings import Machine
from ldm.stages.configs.doctor import Doctor
from ldm.stages.table import pipeline
from ldm.stages.tools import doctor

ROOT = Path(__file__).resolve().parents[2]
LOOKED_AT = {
    "python",
    "ldm",
    "packages",
    "torch",
    "memory",
    "disk",
    "fsync",
    "torch-fidelity",
    "tensorboard",
    "pillow-heif",
}
COMPUTING = {"device", "precision", "threads", "compile"}


def looked(**settings: Any) -> tuple[Any, dict[str, dict[str, str]]]:
    """Run the doctor without its self-test; return its outcome and its checks by name."""
    outcome = run(Doctor.model_validate({"quick": True, **settings}), Silent())
    return outcome, {check["name"]: check for check in outcome.facts["checks"]}


def test_a_machine_on_which_these_tests_run_is_found_well(tmp_path: Path) -> None:
    outcome, checks = looked(runs_dir=tmp_path / "runs", machine={"device": "cpu"})
    assert outcome.exit_code == 0 and set(checks) == LOOKED_AT | COMPUTING
    assert checks["torch"]["value"] == torch.__version__
    assert checks["precision"]["value"].startswith(resolve("cpu").name)
    assert all(check["remedy"] for check in checks.values() if check["state"] != "ok")
    assert all(not check["remedy"] for check in checks.values() if check["state"] == "ok")
    # What compiling is tried with stays where torch keeps it.
    assert [path for path in tmp_path.iterdir() if not path.name.startswith("torchinductor")] == []


def test_where_no_run_can_be_written_the_disk_is_broken(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    outcome, checks = looked(runs_dir=tmp_path / "runs")
    assert outcome.exit_code == 2 and outcome.verdict.endswith("broken: disk")
    assert str(tmp_path / "runs") in checks["disk"]["value"] and "--runs-dir" in checks["disk"]["remedy"]
    assert (tmp_path / "runs").read_text() == "a file"


def test_packages_that_do_not_serve_are_named_in_the_command_that_mends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["numpy<100,>=99", "pillow>=1", "no-such-package>=2", 'scipy>=99; extra == "dev"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: asked)
    outcome, checks = looked(runs_dir=tmp_path)
    assert outcome.exit_code == 2 and checks["packages"]["state"] == "broken"
    assert "no-such-package is missing" in checks["packages"]["value"]
    assert checks["packages"]["remedy"] == "pip install 'numpy<100,>=99' 'no-such-package>=2'"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_broken(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert looked(runs_dir=tmp_path / "runs")[1]["disk"]["state"] == "broken"


def test_a_device_that_is_not_there_is_broken_with_what_resolving_it_says(tmp_path: Path) -> None:
    outcome, checks = looked(runs_dir=tmp_path, machine={"device": "gpu"})
    assert outcome.exit_code == 2 and checks["device"]["state"] == "broken"
    assert "`machine.device=gpu` is unknown" in checks["device"]["value"] and "precision" not in checks


def test_a_missing_compiler_is_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    outcome, checks = looked(runs_dir=tmp_path, machine={"device": "cpu"})
    assert outcome.exit_code == 0 and checks["compile"]["state"] == "hint"
    monkeypatch.setenv("CXX", "false")  # There, and compiles nothing.
    assert "Python.h" in looked(runs_dir=tmp_path, machine={"device": "cpu"})[1]["compile"]["value"]


def test_bf16_is_the_format_exactly_where_there_are_units_for_it() -> None:
    device = torch.device("cpu")
    assert (resolve("cpu").name == "bf16") == (bf16_units(device) is not None)


@pytest.mark.parametrize(
    ("version", "requirement", "fits"),
    [
        ("2.13.0+cpu", "torch>=2.4", True),
        ("2.4", "torch>=2.4.0", True),
        ("2.3.1", "torch>=2.4", False),
        ("10.0", "pillow>=9.9", True),
        ("2.14.3", "pydantic<3,>=2.7", True),
        ("3.0", "pydantic<3,>=2.7", False),
        ("3.0.0rc1", "pydantic >=2.7, <3", False),
        ("1.0", "anything", True),
    ],
)
def test_a_version_is_compared_number_by_number(version: str, requirement: str, fits: bool) -> None:
    assert doctor.satisfies(version, requirement) == fits


def test_a_torch_that_does_not_load_is_reported_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libtorch.so: no such file')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "ldm", "doctor", "--json", "--runs-dir", str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and not done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["facts"]["checks"]}
    assert set(checks) == LOOKED_AT
    assert checks["torch"]["state"] == "broken" and "libtorch.so" in checks["torch"]["value"]


def test_the_self_test_runs_every_stage_and_leaves_nothing_behind(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # torch's compiler makes a cache of its own there as it is imported; that it compiles is tested in test_compile.py.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("compiler")))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert ldm(["doctor", "--device", "cpu", "--runs-dir", str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    for command in pipeline():
        (line,) = [line for line in shown.splitlines() if line.split()[:2] == ["self-test", command]]
        assert line.split()[2] == "ok"
    assert [path for path in tmp_path.iterdir() if not path.name.startswith("torchinductor")] == []


def test_a_self_test_ends_with_the_first_stage_that_fails() -> None:
    tried = list(try_stages(Machine(device="gpu"), Silent()))
    assert [(command, type(error).__name__) for command, _, error in tried] == [("train-vqvae", "ConfigError")]
