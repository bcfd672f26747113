"""Whether what a manifest says agrees with the files that it lists, as far as these say the same in their own words.

A manifest may be edited, and the hash of itself mended; the files of its table have hashes, too, so that they would
have to be changed with it. Compared are only the small ones, whenever a directory is opened.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import files
from ..errors import as_data_error
from . import schemas

if TYPE_CHECKING:
    from .run import StageRun

DOCUMENTS = ("final/config.json", "metrics.json")
_CONDITIONING = ["class_names", "conditioning"]
_INDEX = "index.safetensors"


def at_odds(run: "StageRun", form: type[schemas.Metadata] | None) -> str | None:
    """Return in what a manifest differs from the files that it lists; None where they agree.

    Raises DataError for a compared file that is itself not the one that was listed.
    """
    metadata = run.metadata
    for document in DOCUMENTS:
        if document not in run.manifest["files"]:
            continue
        run.verify(document)
        said = files.read_json(run.path / document, run.remedy)
        compared = [name for name in metadata if name in said]
        compared += _CONDITIONING if any(name in said for name in _CONDITIONING) else []  # There is one of them.
        for name in compared:
            if metadata.get(name) != said.get(name):
                values = " and ".join(json.dumps(each.get(name))[:80] for each in (metadata, said))
                return f"facts.{name} is other than in {document}: {values}"
    return _other_than_index(run) if form is schemas.Latents and _INDEX in run.manifest["files"] else None


def _other_than_index(run: "StageRun") -> str | None:
    """Compare counts, classes and the order of shards with the index, and with the first key in each shard."""
    import numpy as np
    from safetensors.numpy import load_file

    run.verify(_INDEX)
    metadata = run.metadata
    with as_data_error(f"{run.path / _INDEX} cannot be read", run.remedy):
        index: Mapping[str, Any] = load_file(run.path / _INDEX)
    for split, names in metadata["shards"].items():
        shard = index.get(f"{split}.shard")
        if shard is None or len(shard) != metadata["samples"][split]:
            count = 0 if shard is None else len(shard)
            return f"facts.samples: it counts {metadata['samples'][split]:,} {split} samples, {_INDEX} {count:,}"
        firsts = np.searchsorted(shard, np.arange(len(names)))
        for name, first in zip(names, firsts.tolist(), strict=True):
            if first < len(shard) and not _begins_with(run, name, first):
                run.verify(name)
                return f"facts.shards: {name} is not at its place in the order of {_INDEX}"
    labels = index.get("train.label")
    if labels is not None:
        counts = np.bincount(labels[labels >= 0], minlength=len(metadata.get("class_names") or ())).tolist()
        if counts != metadata.get("class_counts", counts):
            return f"facts.class_counts: it counts other labels than {_INDEX}"
    return None


def _begins_with(run: "StageRun", name: str, key: int) -> bool:
    """Return whether the first sample of a shard has that number; a shard that is missing is for `verify` to name."""
    path = run.path / name
    if not path.is_file():
        return True
    with files.open_plain(path) as file:
        return file.read(10) == f"{key:09d}.".encode()
