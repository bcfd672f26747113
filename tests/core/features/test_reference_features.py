"""Features of a reference are read again only where they are those that were asked for, to the bit."""

from pathlib import Path

import pytest
import torch

from ldm.core.features.extractor import Features
from ldm.core.features.reference import DESCRIPTION, TENSORS, keep_features, kept_features

OF = {"extractor": "x", "limit": 3, "data": {"image_size": 8}}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    features = Features(torch.arange(12.0).reshape(3, 4), torch.ones(3, 2))
    keep_features(features, OF, tmp_path / "kept")
    return tmp_path / "kept"


def test_what_was_kept_is_read_to_the_bit(kept: Path) -> None:
    found = kept_features(OF, kept)
    assert found is not None and torch.equal(found.features, torch.arange(12.0).reshape(3, 4))
    assert torch.equal(found.logits, torch.ones(3, 2))


def test_features_of_something_else_are_not_taken(kept: Path) -> None:
    assert kept_features({**OF, "limit": 4}, kept) is None
    keep_features(Features(torch.zeros(1, 4), torch.zeros(1, 2)), {**OF, "limit": 4}, kept)
    assert kept_features(OF, kept) is None and kept_features({**OF, "limit": 4}, kept) is not None


@pytest.mark.parametrize("name", [TENSORS, DESCRIPTION])
def test_damaged_or_missing_features_are_not_taken(kept: Path, name: str) -> None:
    whole = (kept / name).read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        (kept / name).write_bytes(content)
        found = kept_features(OF, kept)
        assert found is None or name == DESCRIPTION, "a description cut at its end may still say the same"
    (kept / name).unlink()
    assert kept_features(OF, kept) is None
    assert kept_features(OF, kept / "nowhere") is None
