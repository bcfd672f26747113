"""Shared by every test: the checkout on the path, one thread, and the optional folder of real data and weights."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and weights beside the checkout; tests that need it skip, saying so, without it."""
    folder = ROOT.parent / "shared"
    if not (folder / "weights").is_dir():
        pytest.skip(f"needs real data and weights in {folder}")
    return folder
