"""Whether latents on disk match their manifest: what `ldm verify` checks beyond the bytes of the files."""

from ..errors import with_remedy
from ..runs.run import MANIFEST, StageRun
from .fields import fields_of
from .index import check_index
from .sharded import read_tables


def check_contents(run: StageRun) -> None:
    """Compare samples, labels and fields of the shards with index and manifest. Raises DataError for what differs."""
    metadata = run.metadata
    fields = fields_of(metadata)
    # Every hash is right, so that the command would say that it is complete.
    with with_remedy(f"remove {run.path / MANIFEST}; then make it again: {run.command}"):
        check_index(run.path, metadata["shards"], fields)
        for split, names in metadata["shards"].items():
            read_tables(run.path, split, names, tuple(metadata["latent_shape"]), fields)
