"""A run of the smallest sizes that the tests of the stages share."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from exchanged import run_export
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


@pytest.fixture(scope="session")
def drawing(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Pipeline:
    """A run with samples, judged, on a VQ-VAE as wide as the default ones: narrower ones cannot be exported."""
    pipeline = Pipeline(tmp_path_factory.mktemp("drawing"), images)
    pipeline.run("train-vqvae", model__channels=16, model__codebook_size=32, train__images=320, train__lr=2e-3)
    pipeline.through("encode", "train-classifier")
    pipeline.run("train-dit", train__images=640, train__lr=1e-3)
    pipeline.run("sample", num=4, steps=20, cfg=2.5, label="shown")
    return pipeline.through("eval")


@pytest.fixture(scope="session")
def exported(drawing: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exports") / "squares"
    run_export(drawing, directory)
    return directory
