"""A run's latents as training and validation read them: what `encode` wrote, opened and checked."""

from pathlib import Path
from typing import Literal

import torch

from ..conditioning.conditioning import Conditioning
from ..conditioning.labels import LABELS, LabelConditioning
from ..conditioning.registry import conditioning_of
from ..distributed import processes
from ..errors import DataError, with_remedy
from ..runs.inputs import open_own, open_producer
from ..runs.roles import AUTOENCODER, LATENTS
from ..runs.run import StageRun
from ..settings.fields import Run
from .dataset import LatentSets
from .fields import fields_of
from .index import INDEX
from .sharded import Reading, ShardedLatents, best_reading, read_tables

_HASHED_FIRST = 1 << 30  # bytes of shards, a second or two


def open_latents(folder: Path | None, config: Run) -> tuple[StageRun, StageRun]:
    """Open latents, by default the run's own, and the autoencoder that they came from.

    Raises DataError with the command to run where one is missing, or the autoencoder changed since.
    """
    latents = open_own(LATENTS, config, folder, "latents")
    return latents, open_producer(latents, "autoencoder", AUTOENCODER, config)


def read_latents(
    latents: StageRun,
    reading: Reading | Literal["auto"] = "auto",
    device: torch.device | None = None,
    conditioning: Conditioning | None = None,
) -> LatentSets:
    """Open the shards of finished latents, after checking them.

    conditioning: what samples are conditioned on, by default all that is recorded. reading: see `core.latents.sharded`;
    "auto" chooses by what they fit in. Sets of up to a gigabyte, and those without checksums, are compared with the
    manifest first, a share by each process; larger sets are compared with their checksums, latent by latent, as they
    are read. Raises DataError for damage, for labels of unknown classes, and for a field that the conditioning needs
    and the shards lack.
    """
    metadata, device = latents.metadata, device or torch.device("cpu")
    shape, names = tuple(metadata["latent_shape"]), {split: metadata["shards"][split] for split in ("train", "val")}
    shards = [name for split in names.values() for name in split]
    latents.verify(INDEX)
    latents.verify_sizes(*shards)
    fields, conditioning = fields_of(metadata), conditioning or conditioning_of(metadata)
    for name in conditioning.stored:
        if fields is None or name not in fields:
            raise DataError(f"{latents.path} lacks the field {name!r}", latents.remedy)
    with with_remedy(latents.remedy):
        tables = [
            table
            for split in names
            for table in read_tables(latents.path, split, names[split], shape, fields)[1].values()
        ]
    shard_bytes = sum(latents.manifest["files"][name]["bytes"] for name in shards)
    if reading == "auto":
        reading = best_reading(shard_bytes, sum(table.total_bytes for table in tables), device)
    whole = shard_bytes <= _HASHED_FIRST or any(table.checksums is None for table in tables)
    if whole:
        _verify_together(latents, shards)
    # What is read from the disk every time is checked every time.
    trusted = whole and reading != "streamed"
    how = (shape, reading, device, trusted, fields, conditioning)
    train, val = (ShardedLatents(latents.path, split, names[split], *how) for split in names)
    for split, name in ((train, "training"), (val, "validation")):
        if not len(split):
            raise DataError(f"{latents.path} holds no {name} samples", latents.remedy)
        if split.labels is not None and LABELS in conditioning.fields:
            known = LabelConditioning(conditioning.class_names)
            known.check(torch.from_numpy(split.labels), str(latents.path))
    return LatentSets(train, val, tuple(metadata.get("class_names") or ()))


def _verify_together(latents: StageRun, shards: list[str]) -> None:
    """Compare shards with the manifest, each process a share of them."""
    world = processes.world()
    share = shards[world.rank :: world.size]
    if share:
        latents.verify(*share)
    processes.barrier()
