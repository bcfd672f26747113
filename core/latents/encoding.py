"""Encoding images into shards of latents: both splits, in turns of several processes, going on where one stopped."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..autoencoders.codec import Autoencoder, TokenCodec
from ..autoencoders.statistics import LatentStatistics
from ..conditioning.captions import Fields
from ..distributed import processes
from ..errors import DataError
from ..images.crops import random_crops
from ..images.dataset import ImageSource
from ..images.decode import as_tensor
from ..images.loader import ImageLoader
from ..images.order import pieces
from ..images.weights import shrunk
from ..progress import Progress
from ..runs.pieces import Pieces
from ..system.precision import Policy
from ..system.signals import stop_flag
from ..system.threads import background
from ..system.transfer import to_device
from . import shards
from .fields import CROPS, FLIP, LATENT, MASK, STD, TOKENS, crop_prefix

_MEASURED_AT_ONCE = 512


@dataclass(frozen=True)
class Encoding:
    """How images are encoded: by which network, on what, and into which shards of a folder.

    shard_size, batch_size: images. tokens: whether to write those of the codec. fields_of: gives the fields of a
    source's conditions.
    """

    shard_size: int
    batch_size: int
    network: Autoencoder
    policy: Policy
    pieces: Pieces
    tokens: bool
    fields_of: Callable[[ImageSource], Callable[[Sequence[int]], list[Fields]]]


@dataclass(frozen=True)
class Views:
    """What is encoded of each image beside the whole one: its mirror image, and so many crops, mirrored as well.

    least_crop: share of an image's sides that a crop shows at least.
    """

    flip: bool = False
    crops: int = 0
    least_crop: float = 1.0


@dataclass(frozen=True)
class Part:
    """A shard on the disk, and the statistics of its latents."""

    shard: shards.Shard
    statistics: LatentStatistics


def encode_split(
    images: ImageLoader, split: str, views: Views, job: Encoding, progress: Progress
) -> tuple[Iterator[Part], int]:
    """Write the missing shards of one split. Returns all of them, and how many images were encoded.

    Batches never cross shards, so that a shard's bytes do not depend on which others exist. Threads decode the
    next images and another writes the last shard, while the network runs. Several processes take the missing shards
    in turn, one each. A shard is measured as it is written; one that existed, or that another process
    wrote, is read when the caller reaches it.
    """
    world = processes.world()
    # Which shards are missing, and this process's batches for them.
    rows = pieces(np.arange(len(images)), job.shard_size)
    names = [shards.shard_name(split, number) for number in range(len(rows))]
    missing = _missing(names, job.pieces, progress)
    before = done = len(images) - sum(len(rows[number]) for number in missing)
    progress.start(f"encoding {split} images", len(images), "images", done=done)
    batches = {number: pieces(rows[number], job.batch_size) for number in missing[world.rank :: world.size]}

    # Three things at once: decoding the next images, encoding these, writing the shard before.
    writing: dict[int, Future[Part]] = {}
    squares = images.batches([batch for own in batches.values() for batch in own])
    with stop_flag() as stop, background("write") as writer, closing(squares):
        for first in range(0, len(missing), world.size):
            # A turn: one missing shard for each process. In the last some have none, but wait with the others.
            turn = missing[first : first + world.size]
            own = turn[world.rank] if world.rank < len(turn) else None
            samples: list[shards.LatentSample] = []
            for some in _samples(images, batches[own], squares, views, job) if own is not None else ():
                samples += some
                progress.update(done + len(samples))
                if stop:
                    break

            # A failed write is raised here, before another shard is begun; a signal to one process stops all.
            for pending in writing.values():
                pending.result()
            if processes.stop_requested(stop):
                raise stop.stopped(f"after {done:,} {split} images")
            if own is not None:
                writing[own] = writer.submit(_write, names[own], int(rows[own][0]), samples, job.pieces)
            # The whole turn counts, the shards of the other processes too.
            done += sum(len(rows[number]) for number in turn)
        for pending in writing.values():
            pending.result()
    # From here on every process finds the shards of all on the disk.
    processes.barrier()
    progress.finish()

    def parts() -> Iterator[Part]:
        for number, name in enumerate(names):
            path = job.pieces.folder / name
            yield writing[number].result() if number in writing else _read(path, int(rows[number][0]))

    return parts(), len(images) - before


def _missing(names: list[str], there: Pieces, progress: Progress) -> list[int]:
    """List the numbers of the missing shards, as the main process sees them: another may be writing one."""
    whole = there.whole(names, progress.warn) if processes.world().is_main else [False] * len(names)
    return [number for number, found in enumerate(processes.broadcast_flags(whole)) if not found]


def _samples(
    images: ImageLoader, batches: list[np.ndarray], squares: Iterator[np.ndarray], views: Views, job: Encoding
) -> Iterator[list[shards.LatentSample]]:
    """Yield the samples of each batch of indices, fetched while the device has the next batch to work on."""
    previous: tuple[np.ndarray, dict[str, torch.Tensor]] | None = None
    for indices in batches:
        fields = _encoded(next(squares), views.flip, job)
        if views.crops:
            fields |= _encoded_crops(images, indices, views, job)
        # Copying to the CPU waits for the device: first queue the next batch, then fetch the one before.
        if previous is not None:
            yield _fetched(images, *previous, job)
        previous = indices, fields
    if previous is not None:
        yield _fetched(images, *previous, job)


def _encoded_crops(images: ImageLoader, indices: np.ndarray, views: Views, job: Encoding) -> dict[str, torch.Tensor]:
    """Encode the crops of one batch, without tokens; and their conditions."""
    size = images.prepare.shape[:2]
    many = [random_crops(index, views.crops, size, views.least_crop) for index in indices.tolist()]
    pixels, latents_only = images.crops(indices, many), replace(job, tokens=False)
    fields = {CROPS: torch.from_numpy(np.array([[crop.condition(size) for crop in crops] for crops in many]))}
    for number in range(views.crops):
        fields |= _encoded(pixels[:, number], views.flip, latents_only, crop_prefix(number + 1))
    return fields


def _encoded(pixels: np.ndarray, flip: bool, job: Encoding, crop: str = "") -> dict[str, torch.Tensor]:
    """Encode one batch, and its mirror image where asked: by field, on the device. crop: what names begin with."""
    batch = to_device(as_tensor(pixels), job.policy.device)
    fields: dict[str, torch.Tensor] = {}
    # Mirror pixels, not latents: an encoder does not commute with mirroring.
    for mirror, view in (("", batch), (FLIP, batch.flip(-1)))[: 2 if flip else 1]:
        with job.policy.autocast():
            found = codec_fields(job.network, view, job.tokens)
        fields |= {mirror + crop + name: values for name, values in found.items()}
    return fields


@torch.no_grad()
def codec_fields(network: Autoencoder, images: torch.Tensor, tokens: bool) -> dict[str, torch.Tensor]:
    """Return a codec's fields of images (B, I, H, W): latents and deviations, float16, and tokens, int32 (B, L).

    tokens: add those of all its maps, one after the other, row by row.
    """
    # Mean and deviation, no draw: training draws from the posterior each time it reads a sample.
    mean, std = network.posterior(images)
    fields = {LATENT: mean.half()}
    if std is not None:
        fields[STD] = std.half()
    if tokens:
        assert isinstance(network.codec, TokenCodec)
        fields[TOKENS] = torch.cat([each.flatten(1) for each in network.codec.tokens(images)], dim=1).int()
    return fields


@torch.no_grad()
def token_maps(network: Autoencoder, size: tuple[int, int], policy: Policy) -> list[list[int]]:
    """Return the shapes of a codec's maps of tokens, where there are several.

    A single map is not worth writing: it follows from the latents beside it.
    """
    if not isinstance(network.codec, TokenCodec):
        return []
    with policy.autocast():
        # Shapes depend on the images' size alone, so a pass on zeros gives them.
        maps = network.codec.tokens(torch.zeros(1, network.in_channels, *size, device=policy.device))
    return [list(each.shape[1:]) for each in maps] if len(maps) > 1 else []


def _fetched(
    images: ImageLoader, indices: np.ndarray, fields: dict[str, torch.Tensor], job: Encoding
) -> list[shards.LatentSample]:
    """Copy a batch's fields to the CPU, and add its conditions. Raises DataError where latents are not finite."""
    arrays = {name: values.cpu().numpy() for name, values in fields.items()}
    arrays |= {name: array.astype(np.uint16) for name, array in arrays.items() if name.endswith(TOKENS)}
    # Checked here and not on the device, where the check would wait for each batch.
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise DataError(
            "the autoencoder encodes to latents that are not finite in float16",
            "use one with a trained encoder: a VQ-VAE of `ldm export` only decodes",
        )
    if images.source.masks is not None:
        masks = shrunk(torch.from_numpy(images.masks(indices))[:, None].float(), job.network.downsampling)
        arrays[MASK] = masks[:, 0].round().to(torch.uint8).numpy()
    given = job.fields_of(images.source)(indices.tolist())
    return [
        shards.LatentSample(
            {**{name: array[row] for name, array in arrays.items()}, **conditions},
            int(images.labels[index]),
            images.source.names[index],
            texts,
        )
        for row, (index, (conditions, texts)) in enumerate(zip(indices, given, strict=True))
    ]


def _write(name: str, first_key: int, samples: list[shards.LatentSample], finished: Pieces) -> Part:
    shard = shards.write_shard(finished.folder / name, first_key, samples)
    finished.add({name: shard.sha256})
    return Part(shard, _measured(samples))


def _read(path: Path, first_key: int) -> Part:
    shard, samples = shards.load_shard(path, first_key)
    return Part(shard, _measured(samples))


def _measured(samples: list[shards.LatentSample]) -> LatentStatistics:
    """Measure one shard's latents, in fixed pieces: the same whether it was just written or read."""
    statistics = LatentStatistics(len(samples[0].arrays[LATENT]))
    for start in range(0, len(samples), _MEASURED_AT_ONCE):
        some = [sample.arrays[LATENT] for sample in samples[start : start + _MEASURED_AT_ONCE]]
        # Contiguous, as a shard is: the rounding of sums depends on the order in memory.
        statistics.add(torch.from_numpy(np.ascontiguousarray(np.stack(some))))
    return statistics


def statistics_of(parts: list[Part], channels: int) -> dict[str, list[float]]:
    """Return each channel's mean and deviation over the training shards, float64."""
    whole = LatentStatistics(channels)
    for part in parts:
        whole.merge(part.statistics)
    return {"mean": whole.mean.tolist(), "std": whole.std.tolist()}
