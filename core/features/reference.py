"""Features of reference images, kept on disk for repeated comparison with the same reference."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..errors import DataError
from ..files import read_json, sha256_file, write_atomically, write_json
from ..runs.weights import read_safetensors
from .extractor import Features

TENSORS, DESCRIPTION = "features.safetensors", "features.json"


def keep_features(features: Features, of: Mapping[str, Any], folder: Path) -> None:
    """Write features into a folder, and last, as JSON, what they are `of`: images, extractor and other conditions."""
    folder.mkdir(exist_ok=True)
    (folder / DESCRIPTION).unlink(missing_ok=True)
    tensors = {"features": features.features.contiguous(), "logits": features.logits.contiguous()}
    write_atomically(folder / TENSORS, lambda path: save_file(tensors, path))
    write_json(folder / DESCRIPTION, {"of": dict(of), "sha256": sha256_file(folder / TENSORS)})


def kept_features(of: Mapping[str, Any], folder: Path) -> Features | None:
    """Read what `keep_features` wrote; None where it is missing, of something else, or damaged."""
    try:
        described = read_json(folder / DESCRIPTION)
        if described.get("of") != dict(of) or described.get("sha256") != sha256_file(folder / TENSORS):
            return None
        tensors = read_safetensors(folder / TENSORS, "")
        features, logits = tensors["features"], tensors["logits"]
    except (DataError, KeyError, OSError):
        return None
    whole = features.dtype == logits.dtype == torch.float32 and features.ndim == logits.ndim == 2
    return Features(features, logits) if whole and len(features) == len(logits) > 0 else None
