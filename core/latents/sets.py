"""A run's latents as training and validation read them: what `encode` wrote, opened, checked and drawn from."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .. import seeds
from ..conditioning.labels import LabelConditioning
from ..distributed import processes
from ..errors import DataError
from ..images.order import spread
from ..pipeline.loading import autoencoder_artifact
from ..runs.artifacts import Artifact, check_producer, open_artifact
from ..runs.inputs import chosen, input_path
from ..runs.outputs import command_line
from ..settings.fields import Run
from ..system.transfer import to_device
from .latent_set import LatentSet, Reading, best_reading, read_table
from .shards import INDEX

VALIDATION_SEED = 0
_AT_ONCE = 64
_HASHED_FIRST = 1 << 30  # bytes of shards, a second or two


def open_latents(folder: Path | None, config: Run) -> tuple[Artifact, Artifact]:
    """Open latents, by default the run's own, and the autoencoder that they came from.

    Raises DataError with the command that mends it where one is missing, or the autoencoder changed since.
    """
    folder = chosen(folder, "--latents", config.root / "latents", "latents")
    latents = open_artifact(folder, "latents", command_line("encode", config))
    producer = autoencoder_artifact(input_path(latents, "autoencoder"), config)
    check_producer(latents, "autoencoder", producer)
    return latents, producer


@dataclass(frozen=True)
class LatentSets:
    """Training and validation latents of labelled images."""

    train: LatentSet
    val: LatentSet
    class_names: tuple[str, ...]


def read_latents(
    latents: Artifact, reading: Reading | Literal["auto"] = "auto", device: torch.device | None = None
) -> LatentSets:
    """Open the shards of finished latents, after making sure that they are what was written.

    reading: see `core.latents.latent_set`; "auto" takes what they fit in. Shards of a gigabyte in all, and those
    without checksums, are compared with the manifest first, by several processes each a share; larger sets, of which
    that would take long, are compared with their checksums latent by latent, as they are read. Raises DataError for
    damage, or for labels that are no class's.
    """
    metadata, device = latents.metadata, device or torch.device("cpu")
    shape, names = tuple(metadata["latent_shape"]), {split: metadata["shards"][split] for split in ("train", "val")}
    shards = [name for split in names.values() for name in split]
    latents.verify(INDEX)
    latents.verify_sizes(*shards)
    tables = [read_table(latents.path, split, names[split], shape)[1] for split in names]
    shard_bytes = sum(latents.manifest["files"][name]["bytes"] for name in shards)
    if reading == "auto":
        reading = best_reading(shard_bytes, sum(table.num_array_bytes for table in tables), device)
    whole = shard_bytes <= _HASHED_FIRST or any(table.checksums is None for table in tables)
    if whole:
        _verify_together(latents, shards)
    # What is read from the disk again and again is checked again and again.
    trusted = whole and reading != "streamed"
    train, val = (LatentSet(latents.path, split, names[split], shape, reading, device, trusted) for split in names)
    classes = LabelConditioning(len(metadata["class_names"]))
    for split, name in ((train, "training"), (val, "validation")):
        if not len(split):
            raise DataError(f"{latents.path} holds no {name} samples", latents.remedy)
        classes.check(torch.from_numpy(split.labels), str(latents.path))
    return LatentSets(train, val, tuple(metadata["class_names"]))


def _verify_together(latents: Artifact, shards: list[str]) -> None:
    """Compare shards with the manifest, each process a share of them."""
    world = processes.world()
    share = shards[world.rank :: world.size]
    if share:
        latents.verify(*share)
    processes.barrier()


def training_latents(source: LatentSet, samples: np.ndarray, seed: int, positions: np.ndarray) -> Tensor:
    """Return latents (B, C, h, w) of samples (B,), half of them mirrored, as the stream positions (B,) draw them."""
    flip = seeds.uniform(seed, "flip", positions).numpy() < 0.5 if source.has_flip else None
    return draw_latents(source, samples, flip, seed, "posterior", positions)


def draw_latents(
    source: LatentSet, samples: np.ndarray, flip: np.ndarray | None, seed: int, purpose: str, draws: np.ndarray
) -> Tensor:
    """Gather latents (B, C, h, w); of a variational autoencoder's, draw from the posterior."""
    mean = source.batch(samples, flip)
    if not source.has_std:
        return mean
    noise = to_device(seeds.normal(seed, purpose, draws, source.shape), mean.device)
    return mean + source.batch(samples, flip, std=True) * noise


@dataclass(frozen=True)
class HeldOut:
    """Some validation latents: x0 and noise (B, C, h, w), labels (B,), and numbers in (0, 1) to make times of (B,)."""

    x0: Tensor
    noise: Tensor
    labels: Tensor
    evenly: Tensor


def held_out(source: LatentSet, limit: int) -> Iterator[HeldOut]:
    """Yield at most `limit` validation samples in batches, the numbers for their times evenly spread over all of them.

    Samples, numbers and noise are the same whatever the run's seed, so that runs of one loss can be compared. The
    samples come in a random order, lest each class have times of its own.
    """
    chosen = spread(len(source), limit)
    evenly = torch.from_numpy((np.arange(len(chosen)) + 0.5) / len(chosen))
    for start in range(0, len(chosen), _AT_ONCE):
        some = chosen[start : start + _AT_ONCE]
        yield HeldOut(
            x0=draw_latents(source, some, None, VALIDATION_SEED, "validation posterior", some),
            noise=seeds.normal(VALIDATION_SEED, "validation noise", some, source.shape),
            labels=torch.from_numpy(source.labels[some]),
            evenly=evenly[start : start + len(some)],
        )
