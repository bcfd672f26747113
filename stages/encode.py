"""`ldm encode`: images and an autoencoder in, WebDataset shards of latents out."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..core.autoencoders.codec import Autoencoder, TokenCodec
from ..core.autoencoders.statistics import LatentStatistics
from ..core.conditioning.captions import Fields
from ..core.conditioning.conditioning import Conditioning
from ..core.conditioning.registry import conditioning_of, recorded
from ..core.denoisers.registry import preset_for
from ..core.distributed import processes
from ..core.errors import ConfigError, DataError
from ..core.images.dataset import ImageSource
from ..core.images.decode import as_tensor
from ..core.images.loader import ImageLoader
from ..core.images.order import pieces
from ..core.images.sets import data_of, image_sources, inherit_data, warn_of_change
from ..core.latents import shards
from ..core.latents.conditions import KINDS, condition_of
from ..core.latents.fields import FLIP, LABEL, LATENT, STD, TOKENS
from ..core.latents.index import INDEX, write_index
from ..core.pipeline.loading import load_autoencoder
from ..core.progress import Outcome, Progress
from ..core.runs.inputs import as_input, open_own
from ..core.runs.outputs import claim, command_line, occupied, output_folder
from ..core.runs.pieces import Pieces
from ..core.runs.roles import AUTOENCODER, LATENTS
from ..core.system.precision import Policy
from ..core.system.signals import stop_flag
from ..core.system.transfer import to_device
from .configs import Encode

_MEASURED_AT_ONCE = 512


def run(config: Encode, progress: Progress) -> Outcome:
    """Encode the training and validation images of a run. Returns the folder of the shards."""
    folder = output_folder(config)
    with occupied(folder, config.machine) as policy:
        # Inputs: the autoencoder, and the images it was trained on unless others are given.
        source = open_own(AUTOENCODER, config, config.autoencoder, "autoencoder")
        given = config
        config = inherit_data(config, source)
        _same_size(config, data_of(source).image_size)
        sources = image_sources(config.data)
        warn_of_change(sources.as_input, source, progress)
        condition = condition_of(sources, config.conditioning, config, policy.device)
        if condition is not None:
            sources = condition.images
            config = config if condition.mirrors else _unmirrored(config, given)
        conditioned_on = {} if condition is None else condition.inputs
        inputs = {"autoencoder": as_input(source, folder), **sources.inputs, **conditioned_on}

        # Nothing to do where the same settings and inputs have made this folder.
        work = claim(folder, config, inputs, progress)
        if work.complete:
            made = open_own(LATENTS, config, folder, "latents")
            return Outcome(
                folder, already_complete=True, next_commands=[_training(config, conditioning_of(made.metadata))]
            )

        # Encode both splits; shards that are there are not made again.
        network = load_autoencoder(source, policy).network
        maps = token_maps(network, config.data.image_size, policy)
        images = sources.read(progress, keep=False)
        conditioning: Conditioning | None = None
        fields_of = _no_fields
        if condition is not None:
            conditioning = condition.conditioning(images.train.source, images.val.source, progress)
            fields_of = partial(condition.fields, conditioning)
        job = _Job(config, network, policy, Pieces(folder), bool(maps), fields_of)
        started = time.monotonic()
        train, num_train = _encode(images.train, "train", config.data.flip, job, progress)
        val, num_val = _encode(images.val, "val", False, job, progress)  # Validation does not mirror.
        speed = (num_train + num_val) / (time.monotonic() - started)

        # One process writes the index, the statistics and, last of all, the manifest.
        if not processes.world().is_main:
            return Outcome(folder)
        parts = {"train": list(train), "val": list(val)}
        names = {split: [part.shard.name for part in each] for split, each in parts.items()}
        fields = write_index(folder, {split: [part.shard for part in each] for split, each in parts.items()})

        # Labels come from the images, another condition from what has it, all other fields from the autoencoder.
        made_by = {LABEL: sources.as_input["fingerprint"]}
        if condition is not None and conditioning is not None:
            made_by |= dict.fromkeys(condition.names(conditioning), condition.fingerprint)
        shape = job.network.latent_shape(config.data.image_size)
        metadata = {
            "latent_shape": list(shape),
            "dtype": "float16",
            "before_quantisation": True,
            "fields": {name: form.describe(made_by.get(name, source.fingerprint)) for name, form in fields.items()},
            **({"token_maps": maps} if maps else {}),
            "flips": config.data.flip,
            "class_names": list(images.class_names),
            "class_counts": np.bincount(images.train.labels, minlength=len(images.class_names)).tolist(),
            "image_size": config.data.image_size,
            "crop": {"crop": "centre, as ADM", "pad": "none, padded", "stretch": "none, stretched"}[config.data.fit],
            "autoencoder": source.fingerprint,
            "shards": names,
            "samples": {"train": len(images.train), "val": len(images.val)},
            "statistics": _statistics(parts["train"], shape[0]),
            "skipped": images.skipped,
            **({} if conditioning is None else recorded(conditioning)),
        }
        hashes = {part.shard.name: part.shard.sha256 for each in parts.values() for part in each}
        artifact = work.commit([*hashes, INDEX], metadata, hashes, speed or None)

    # What the command shows.
    size = sum(entry["bytes"] for entry in artifact.manifest["files"].values())
    conditions = {}
    if condition is not None and conditioning is not None:
        conditions = condition.summary(conditioning, images.train.source)
    summary = {
        "latents": f"{len(images.train):,} for training, {len(images.val):,} for validation",
        "shape": " × ".join(map(str, shape)),
        "size": f"{size / 1e6:.1f} MB in {len(hashes)} shards",
        **conditions,
    }
    if num_train + num_val:
        summary["speed"] = f"{speed:,.0f} images a second"
    return Outcome(folder, summary=summary, next_commands=[_training(config, conditioning_of(metadata))])


def _training(config: Encode, conditioning: Conditioning) -> str:
    """Return the command that trains on the latents: a DiT, if that takes their conditions."""
    if conditioning.kind not in KINDS:
        return command_line("train-dit", config)
    return f"{command_line('train-denoiser', config)} --preset {preset_for(conditioning)}"


def _same_size(config: Encode, trained_at: int) -> None:
    if config.data.image_size != trained_at:
        raise ConfigError(
            f"`data.image_size={config.data.image_size}` differs from the {trained_at} that the autoencoder was"
            " measured at",
            "leave `data.image_size` out, or train the autoencoder at that size",
        )


def _unmirrored(config: Encode, given: Encode) -> Encode:
    """Return the settings without mirrored images, which captions of left and right forbid, unless they were given."""
    if "flip" in given.data.model_fields_set:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"flip": False})})


def _no_fields(source: ImageSource) -> Callable[[Sequence[int]], list[Fields]]:
    """Return what gives samples no fields of a condition."""
    return lambda indices: [({}, {})] * len(indices)


@dataclass(frozen=True)
class _Job:
    """An encoding: settings, network, device, and the shards of its folder.

    tokens: whether to write those of the codec. fields_of: gives the fields of a source's conditions.
    """

    config: Encode
    network: Autoencoder
    policy: Policy
    pieces: Pieces
    tokens: bool
    fields_of: Callable[[ImageSource], Callable[[Sequence[int]], list[Fields]]]


@dataclass(frozen=True)
class _Part:
    """A shard on the disk, and the statistics of its latents."""

    shard: shards.Shard
    statistics: LatentStatistics


def _encode(images: ImageLoader, split: str, flip: bool, job: _Job, progress: Progress) -> tuple[Iterator[_Part], int]:
    """Write the missing shards of one split. Returns all of them, and how many images were encoded.

    Batches never cross shards, so that a shard's bytes do not depend on which others exist. Threads decode the
    next images and another writes the last shard, while the network runs. Several processes take the missing shards
    in turn, one each. A shard is measured as it is written; one that existed, or that another process
    wrote, is read when the caller reaches it.
    """
    world, config = processes.world(), job.config
    # Which shards are missing, and this process's batches for them.
    rows = pieces(np.arange(len(images)), config.shard_size)
    names = [shards.shard_name(split, number) for number in range(len(rows))]
    missing = _missing(names, job.pieces, progress)
    before = done = len(images) - sum(len(rows[number]) for number in missing)
    progress.start(f"encoding {split} images", len(images), "images", done=done)
    batches = {number: pieces(rows[number], config.batch_size) for number in missing[world.rank :: world.size]}

    # Three things at once: decoding the next images, encoding these, writing the shard before.
    writing: dict[int, Future[_Part]] = {}
    squares = images.batches([batch for own in batches.values() for batch in own])
    with stop_flag() as stop, ThreadPoolExecutor(1, thread_name_prefix="write") as writer, closing(squares):
        for first in range(0, len(missing), world.size):
            # A turn: one missing shard for each process. In the last some have none, but wait with the others.
            turn = missing[first : first + world.size]
            own = turn[world.rank] if world.rank < len(turn) else None
            samples: list[shards.LatentSample] = []
            for some in _samples(images, batches[own], squares, flip, job) if own is not None else ():
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

    def parts() -> Iterator[_Part]:
        for number, name in enumerate(names):
            path = job.pieces.folder / name
            yield writing[number].result() if number in writing else _read(path, int(rows[number][0]))

    return parts(), len(images) - before


def _missing(names: list[str], there: Pieces, progress: Progress) -> list[int]:
    """List the numbers of the missing shards, as the main process sees them: another may be writing one."""
    whole = there.whole(names, progress.warn) if processes.world().is_main else [False] * len(names)
    return [number for number, found in enumerate(processes.broadcast_flags(whole)) if not found]


def _samples(
    images: ImageLoader, batches: list[np.ndarray], squares: Iterator[np.ndarray], flip: bool, job: _Job
) -> Iterator[list[shards.LatentSample]]:
    """Yield the samples of each batch of indices, fetched while the device has the next batch to work on."""
    previous: tuple[np.ndarray, dict[str, torch.Tensor]] | None = None
    for indices in batches:
        fields = _encoded(next(squares), flip, job)
        # Copying to the CPU waits for the device: first queue the next batch, then fetch the one before.
        if previous is not None:
            yield _fetched(images, *previous, job)
        previous = indices, fields
    if previous is not None:
        yield _fetched(images, *previous, job)


def _encoded(pixels: np.ndarray, flip: bool, job: _Job) -> dict[str, torch.Tensor]:
    """Encode one batch, and its mirror image where asked: by field, on the device."""
    batch = to_device(as_tensor(pixels), job.policy.device)
    fields: dict[str, torch.Tensor] = {}
    # Mirror pixels, not latents: an encoder does not commute with mirroring.
    for prefix, view in (("", batch), (FLIP, batch.flip(-1)))[: 2 if flip else 1]:
        with job.policy.autocast():
            fields |= {prefix + name: values for name, values in codec_fields(job.network, view, job.tokens).items()}
    return fields


@torch.no_grad()
def codec_fields(network: Autoencoder, images: torch.Tensor, tokens: bool) -> dict[str, torch.Tensor]:
    """Return a codec's fields of images (B, 3, H, W): latents and deviations, float16, and tokens, int32 (B, L).

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
def token_maps(network: Autoencoder, image_size: int, policy: Policy) -> list[list[int]]:
    """Return the shapes of a codec's maps of tokens, where there are several.

    A single map is not worth writing: it follows from the latents beside it.
    """
    if not isinstance(network.codec, TokenCodec):
        return []
    with policy.autocast():
        # Shapes depend on the image size alone, so a pass on zeros gives them.
        maps = network.codec.tokens(torch.zeros(1, 3, image_size, image_size, device=policy.device))
    return [list(each.shape[1:]) for each in maps] if len(maps) > 1 else []


def _fetched(
    images: ImageLoader, indices: np.ndarray, fields: dict[str, torch.Tensor], job: _Job
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


def _write(name: str, first_key: int, samples: list[shards.LatentSample], finished: Pieces) -> _Part:
    shard = shards.write_shard(finished.folder / name, first_key, samples)
    finished.add({name: shard.sha256})
    return _Part(shard, _measured(samples))


def _read(path: Path, first_key: int) -> _Part:
    shard, samples = shards.load_shard(path, first_key)
    return _Part(shard, _measured(samples))


def _measured(samples: list[shards.LatentSample]) -> LatentStatistics:
    """Measure one shard's latents, in fixed pieces: the same whether it was just written or read."""
    statistics = LatentStatistics(len(samples[0].arrays[LATENT]))
    for start in range(0, len(samples), _MEASURED_AT_ONCE):
        some = [sample.arrays[LATENT] for sample in samples[start : start + _MEASURED_AT_ONCE]]
        # Contiguous, as a shard is: the rounding of sums depends on the order in memory.
        statistics.add(torch.from_numpy(np.ascontiguousarray(np.stack(some))))
    return statistics


def _statistics(parts: list[_Part], channels: int) -> dict[str, list[float]]:
    """Return each channel's mean and deviation over the training shards, float64."""
    whole = LatentStatistics(channels)
    for part in parts:
        whole.merge(part.statistics)
    return {"mean": whole.mean.tolist(), "std": whole.std.tolist()}
