"""What the tests of the promises share: commands in processes of their own, and the smallest pipeline's recipe."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import Launcher
from small_runs import write_recipe


@pytest.fixture(scope="session")
def ldm() -> Iterator[Launcher]:
    """Starts `ldm` commands as processes."""
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """The recipe of the smallest pipeline."""
    return write_recipe(tmp_path_factory.mktemp("recipe") / "tiny.yaml", images)
