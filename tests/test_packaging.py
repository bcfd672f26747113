"""The built wheel and the editable install hold the whole program, outside the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"ldm": "ldm", "cli": "ldm/cli", "stages": "ldm/stages", "core": "ldm/core", "recipes": "ldm/recipes"}
FILES = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that building leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy(ROOT / file, copy / file)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel."""
    built, unpacked = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("unpacked")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(checkout)]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next(built.glob("ldm-*.whl"))) as archive:
        archive.extractall(unpacked)
    return unpacked


def python(*arguments: str, cwd: Path, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | variables
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_module_recipe_and_built_in_data_file(wheel: Path) -> None:
    wanted = {
        f"{inside}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, inside in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml") or ("builtin" in path.parts and path.is_file() and path.suffix != ".pyc")
    }
    held = {path.relative_to(wheel).as_posix() for path in (wheel / "ldm").rglob("*") if path.is_file()}
    assert wanted <= held
    assert "ldm/py.typed" in held, "type checkers read the annotations of an installed ldm"
    assert any("core/images/builtin/" in name for name in held)


def test_the_wheel_holds_nothing_but_the_program(wheel: Path) -> None:
    tops = {path.name.split("-")[0] for path in wheel.iterdir()}
    assert tops == {"ldm"}
    assert not list(wheel.rglob("tests"))
    (entry_points,) = wheel.glob("*.dist-info/entry_points.txt")
    assert "ldm = ldm.cli.main:main" in entry_points.read_text()


def test_the_unpacked_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    shown = python("-m", "ldm", "--help", cwd=tmp_path, PYTHONPATH=str(wheel))
    assert "train-vqvae" in shown
    shown = python("-m", "ldm", "config", "show", "train-dit", "-c", "mnist", cwd=tmp_path, PYTHONPATH=str(wheel))
    assert "ldm/recipes/mnist.yaml line" in shown
    where = "import ldm.cli.main, ldm.core.errors; print(ldm.cli.main.__file__, ldm.core.errors.__file__)"
    assert all(name.startswith(str(wheel)) for name in python("-c", where, cwd=tmp_path, PYTHONPATH=str(wheel)).split())


def test_an_editable_install_runs_the_checkout(checkout: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    build = f"import setuptools.build_meta as backend; print(backend.build_editable({str(tmp_path)!r}))"
    name = python("-c", build, cwd=checkout).split()[-1]
    with zipfile.ZipFile(tmp_path / name) as archive:
        archive.extractall(site)
    where = (  # without site, so that an editable install of this very checkout does not answer instead
        f"import site, sys; site.addsitedir({str(site)!r}); sys.path.append({sysconfig.get_path('purelib')!r}); "
        "import ldm.cli.main, ldm.core.errors, ldm.stages.configs; "
        "print(ldm.cli.main.__file__, ldm.core.errors.__file__, ldm.stages.configs.__file__)"
    )
    files = python("-S", "-c", where, cwd=tmp_path).split()
    assert files == [str(checkout / part) for part in ("cli/main.py", "core/errors.py", "stages/configs/__init__.py")]
