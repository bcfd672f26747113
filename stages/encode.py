"""`ldm encode`: images and an autoencoder in, WebDataset shards of latents out."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from ..core import parallel
from ..core.autoencoders.statistics import LatentStatistics
from ..core.data import shards
from ..core.data.images import as_tensor
from ..core.data.loading import ImageLoader
from ..core.errors import ConfigError, DataError
from ..core.precision import Policy
from ..core.progress import Outcome, Progress
from ..core.signals import stop_flag
from .configs import Encode
from .handover import (
    TrainedAutoencoder,
    as_input,
    autoencoder_artifact,
    claim,
    command_line,
    data_of,
    image_sources,
    inherit_data,
    load_autoencoder,
    occupied,
    output_folder,
)


def run(config: Encode, progress: Progress) -> Outcome:
    """Encode the training and validation images of a run. Returns where the shards lie."""
    folder = output_folder(config, "encode")
    with occupied(folder, config.machine) as policy:
        source = autoencoder_artifact(config.autoencoder or config.root / "vqvae", config)
        config = inherit_data(config, source)
        _same_size(config, data_of(source).image_size)
        sources = image_sources(config.data)
        inputs = {"autoencoder": as_input(source, folder), "data": sources.as_input}
        work = claim(folder, "encode", config, inputs)
        next_commands = [command_line("train-dit", config)]
        if work.complete:
            return Outcome(folder, already_complete=True, next_commands=next_commands)
        autoencoder = load_autoencoder(source, policy)
        images = sources.read(progress)
        names = {
            "train": _encode(images.train, "train", config, autoencoder, policy, folder, progress),
            "val": _encode(images.val, "val", config, autoencoder, policy, folder, progress),
        }
        if not parallel.world().leads:
            return Outcome(folder)
        shards.write_index(folder, names)
        shape = autoencoder.network.latent_shape(config.data.image_size)
        facts = {
            "latent_shape": list(shape),
            "dtype": "float16",
            "before_quantisation": True,
            "flips": config.data.flip,
            "class_names": list(images.class_names),
            "class_counts": np.bincount(images.train.labels, minlength=len(images.class_names)).tolist(),
            "image_size": config.data.image_size,
            "crop": "centre, as ADM",
            "autoencoder": source.fingerprint,
            "shards": names,
            "samples": {"train": len(images.train), "val": len(images.val)},
            "statistics": _statistics(folder, names["train"], shape),
            "skipped": images.skipped,
        }
        artifact = work.commit([*names["train"], *names["val"], shards.INDEX], facts)
    size = sum(entry["bytes"] for entry in artifact.manifest["files"].values())
    summary = {
        "latents": f"{len(images.train):,} for training, {len(images.val):,} for validation",
        "shape": " × ".join(map(str, shape)),
        "size": f"{size / 1e6:.1f} MB in {len(names['train']) + len(names['val'])} shards",
    }
    return Outcome(folder, summary=summary, next_commands=next_commands)


def _same_size(config: Encode, trained_at: int) -> None:
    if config.data.image_size != trained_at:
        raise ConfigError(
            f"--image-size {config.data.image_size} differs from the {trained_at} that the autoencoder was measured at",
            "leave --image-size out, or train the autoencoder at that size",
        )


def _encode(
    images: ImageLoader,
    split: str,
    config: Encode,
    autoencoder: TrainedAutoencoder,
    policy: Policy,
    folder: Path,
    progress: Progress,
) -> list[str]:
    """Write the shards of one split that are not there yet. Returns the names of all of them.

    Batches never cross shards, so that a shard's bytes do not depend on which others were there. Decoding, encoding
    and writing overlap: threads decode the next batches, another writes the last shard. Several processes take the
    missing shards in turn, one each.
    """
    world = parallel.world()
    starts = range(0, len(images), config.shard_size)
    sizes = [min(config.shard_size, len(images) - start) for start in starts]
    names = [shards.shard_name(split, number) for number in range(len(starts))]
    missing = _missing(folder, names)
    done = len(images) - sum(sizes[number] for number in missing)
    progress.start(f"encoding {split} images", len(images), "images", done=done)
    with stop_flag() as stop, ThreadPoolExecutor(1) as writer:
        writing: list[Future[None]] = []
        for first in range(0, len(missing), world.size):
            turn = missing[first : first + world.size]
            samples: list[shards.LatentSample] = []
            for number in turn[world.rank : world.rank + 1]:
                rows = np.arange(starts[number], starts[number] + sizes[number])
                for indices, pixels in images.in_turn(config.batch_size, rows):
                    samples += _latents(images, indices, pixels, config.data.flip, autoencoder, policy)
                    progress.update(done + len(samples))
                    if stop:
                        break
            for pending in writing:
                pending.result()
            if parallel.heed(stop):
                raise stop.stopped(f"after {starts[turn[0]]:,} {split} images")
            writing = [
                writer.submit(shards.write_shard, folder / names[number], starts[number], samples)
                for number in turn[world.rank : world.rank + 1]
            ]
            done += sum(sizes[number] for number in turn)
        for pending in writing:
            pending.result()
    parallel.exchange()
    progress.finish()
    return names


def _missing(folder: Path, names: list[str]) -> list[int]:
    """List the numbers of the shards that are not there, as the first process sees it: one may be written meanwhile."""
    there = [(folder / name).exists() for name in names]
    return [number for number, found in enumerate(parallel.as_leader_sees(there)) if not found]


@torch.no_grad()
def _latents(
    images: ImageLoader,
    indices: np.ndarray,
    pixels: np.ndarray,
    flip: bool,
    autoencoder: TrainedAutoencoder,
    policy: Policy,
) -> list[shards.LatentSample]:
    """Encode one batch, and its mirror image where asked, into samples."""
    batch = as_tensor(pixels).to(policy.device)
    fields: dict[str, np.ndarray] = {}
    for prefix, view in (("", batch), ("flip.", batch.flip(-1)))[: 2 if flip else 1]:
        with policy.autocast():
            mean, std = autoencoder.network.posterior(view)
        fields[f"{prefix}npy"] = _half(mean)
        if std is not None:
            fields[f"{prefix}std.npy"] = _half(std)
    return [
        shards.LatentSample(
            {field: values[row] for field, values in fields.items()},
            int(images.labels[index]),
            images.source.names[index],
        )
        for row, index in enumerate(indices)
    ]


def _half(latents: torch.Tensor) -> np.ndarray:
    half = latents.float().half()
    if not bool(torch.isfinite(half).all()):
        raise DataError(
            "the autoencoder encodes to latents that are not finite in float16",
            "use one with a trained encoder: a VQ-VAE that went through `ldm export` only decodes",
        )
    return half.cpu().numpy()


def _statistics(folder: Path, names: list[str], shape: tuple[int, int, int]) -> dict[str, list[float]]:
    """Measure each channel's mean and deviation over the training shards, float64."""
    latents = shards.LatentSet(folder, "train", names, shape)
    measured = LatentStatistics(shape[0])
    for start in range(0, len(latents), 1024):
        measured.add(latents.batch(np.arange(start, min(start + 1024, len(latents)))))
    return {"mean": measured.mean.tolist(), "std": measured.std.tolist()}
