"""A run of the smallest sizes that the tests of the stages share."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from pipeline_run import Pipeline, write_squares


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("images") / "squares")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Pipeline:
    pipeline = Pipeline(tmp_path_factory.mktemp("runs"), images)
    return pipeline.through("train-vqvae", "encode", "train-dit", "train-classifier")


@pytest.fixture
def copied(trained: Pipeline, tmp_path: Path) -> Pipeline:
    """The trained run, to be harmed."""
    return trained.copy(tmp_path)
