"""Shared by every test: one thread, no network, the ledger of promises, a trained run, and real data where there is."""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import torch

from tests.support.as_they_are import train
from tests.support.exchanged import run_export
from tests.support.ledger import (  # noqa: F401
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_generate_tests,
    pytest_runtest_makereport,
    pytest_terminal_summary,
    trials,
)
from tests.support.no_network.blocked import block
from tests.support.pipeline_run import MULTI_SCALE, Pipeline, write_squares

ROOT = Path(__file__).resolve().parents[1]
NO_NETWORK = ROOT / "tests" / "support" / "no_network"

torch.set_num_threads(1)
block()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that runs tests in the background lets them ignore Ctrl-C, and so would every process that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # So does nohup.
os.fsync = lambda handle: None  # What a power cut would leave is not tested, and the disk is the slowest part.
os.environ["LDM_CACHE_DIR"] = tempfile.mkdtemp(prefix="ldm-decoded-")  # of this session's processes, and of no user's
atexit.register(shutil.rmtree, os.environ["LDM_CACHE_DIR"], ignore_errors=True)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(NO_NETWORK), os.environ.get("PYTHONPATH"))))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and weights beside the checkout; tests that need it skip, saying so, without it."""
    folder = ROOT.parent / "shared"
    if not (folder / "weights").is_dir():
        pytest.skip(f"needs real data and weights in {folder}")
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of class folders of small squares."""
    return write_squares(tmp_path_factory.mktemp("images") / "squares")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Pipeline:
    """A run of the smallest sizes, trained; not to be changed."""
    pipeline = Pipeline(tmp_path_factory.mktemp("runs"), images)
    return pipeline.through("train-vqvae", "encode", "train-dit", "train-classifier")


@pytest.fixture(scope="session")
def next_scale(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run with a next-scale transformer, trained; not to be changed but for what is drawn."""
    base = tmp_path_factory.mktemp("next-scale")
    pipeline = Pipeline(base, write_squares(base / "squares", size=16))
    pipeline.run("train-autoencoder", model=MULTI_SCALE)
    return pipeline.through("encode", "train-var", "train-classifier")


@pytest.fixture(scope="session")
def as_they_are(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run of grey images that are not square, with masks, labels and numbers, trained; not to be changed."""
    return train(tmp_path_factory.mktemp("as-they-are"))


@pytest.fixture
def copied(trained: Pipeline, tmp_path: Path) -> Pipeline:
    """The trained run, to be harmed."""
    return trained.copy(tmp_path)


@pytest.fixture(scope="session")
def drawing(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Pipeline:
    """A run with samples, evaluated, on a VQ-VAE as wide as the default ones: narrower ones cannot be exported."""
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
