"""Whether latents on disk match their manifest: what `ldm verify` checks beyond the bytes of the files."""

import numpy as np

from ..errors import DataError
from ..runs.run import StageRun
from .fields import fields_of
from .index import check_index
from .sharded import read_tables


def check_contents(run: StageRun) -> None:
    """Compare samples, labels and fields of the shards with index and manifest. Raises DataError for what differs."""
    metadata = run.metadata
    fields = fields_of(metadata)
    labels = check_index(run.path, metadata["shards"], fields)
    for split, count in metadata["samples"].items():
        if len(labels[split]) != count:
            message = f"{run.path} holds {len(labels[split]):,} {split} samples, its manifest says {count:,}"
            raise DataError(message, run.remedy)
        read_tables(run.path, split, metadata["shards"][split], tuple(metadata["latent_shape"]), fields)
    known = labels["train"][labels["train"] >= 0]
    counts = metadata.get("class_counts")  # not recorded of latents without classes
    if counts is not None and np.bincount(known, minlength=len(counts)).tolist() != counts:
        raise DataError(f"{run.path} holds other labels than its manifest says", run.remedy)
