"""`ldm encode`: images and an autoencoder in, WebDataset shards of latents out."""

import time
from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np

from ..core.autoencoders.codec import Autoencoder
from ..core.conditioning.captions import Fields
from ..core.conditioning.conditioning import Conditioning
from ..core.conditioning.registry import conditioning_of, recorded
from ..core.denoisers.registry import preset_for
from ..core.distributed import processes
from ..core.errors import ConfigError
from ..core.images.dataset import ImageSource
from ..core.images.sets import MASKS, data_of, image_sources, inherit_data, warn_of_change
from ..core.images.settings import Data
from ..core.latents.conditions import KINDS, condition_of
from ..core.latents.encoding import Encoding, encode_split, statistics_of, token_maps
from ..core.latents.fields import LABEL, MASK
from ..core.latents.index import INDEX, write_index
from ..core.pipeline.loading import load_autoencoder
from ..core.progress import Outcome, Progress, number_of
from ..core.runs.inputs import as_input, open_own
from ..core.runs.outputs import claim, command_line, occupied, output_folder
from ..core.runs.pieces import Pieces
from ..core.runs.roles import AUTOENCODER, LATENTS
from ..core.runs.schemas import size_recorded
from .configs import Encode


def run(config: Encode, progress: Progress) -> Outcome:
    """Encode the training and validation images of a run. Returns the folder of the shards."""
    folder = output_folder(config)
    with occupied(folder, config.machine) as policy:
        # Inputs: the autoencoder, and the images it was trained on unless others are given.
        source = open_own(AUTOENCODER, config, config.autoencoder, "autoencoder")
        given = config
        config = inherit_data(config, source)
        autoencoder = cache(lambda: load_autoencoder(source, policy).network)
        _check_form(config, data_of(source), autoencoder, progress)
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
        network = autoencoder()
        maps = token_maps(network, config.data.size, policy)
        images = sources.read(progress, keep=False)
        conditioning: Conditioning | None = None
        fields_of = _no_fields
        if condition is not None:
            conditioning = condition.conditioning(images.train.source, images.val.source, progress)
            fields_of = partial(condition.fields, conditioning)
        job = Encoding(config.shard_size, config.batch_size, network, policy, Pieces(folder), bool(maps), fields_of)
        started = time.monotonic()
        train, num_train = encode_split(images.train, "train", config.data.flip, job, progress)
        val, num_val = encode_split(images.val, "val", False, job, progress)  # Validation does not mirror.
        speed = (num_train + num_val) / (time.monotonic() - started)

        # One process writes the index, the statistics and, last of all, the manifest.
        if not processes.world().is_main:
            return Outcome(folder)
        parts = {"train": list(train), "val": list(val)}
        names = {split: [part.shard.name for part in each] for split, each in parts.items()}
        fields = write_index(folder, {split: [part.shard for part in each] for split, each in parts.items()})

        # Labels come from the images, another condition from what has it, all other fields from the autoencoder.
        made_by = {LABEL: sources.as_input["fingerprint"]}
        if config.data.masks:
            made_by[MASK] = inputs[MASKS]["fingerprint"]
        if condition is not None and conditioning is not None:
            made_by |= dict.fromkeys(condition.names(conditioning), condition.fingerprint)
        shape = job.network.latent_shape(config.data.size)
        metadata = {
            "latent_shape": list(shape),
            "dtype": "float16",
            "before_quantisation": True,
            "fields": {name: form.describe(made_by.get(name, source.fingerprint)) for name, form in fields.items()},
            **({"token_maps": maps} if maps else {}),
            "flips": config.data.flip,
            "class_names": list(images.class_names),
            "class_counts": np.bincount(images.train.labels, minlength=len(images.class_names)).tolist(),
            **size_recorded(config.data.size),
            "crop": {"crop": "centre, as ADM", "pad": "none, padded", "stretch": "none, stretched"}[config.data.fit],
            "autoencoder": source.fingerprint,
            "shards": names,
            "samples": {"train": len(images.train), "val": len(images.val)},
            "statistics": statistics_of(parts["train"], shape[0]),
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
        "size": f"{size / 1e6:.1f} MB in {number_of(len(hashes), 'shard')}",
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


def _check_form(config: Encode, measured: Data, autoencoder: Callable[[], Autoencoder], progress: Progress) -> None:
    """Refuse images that the autoencoder does not take: of other channels, or of a size that does not divide.

    At another size than the autoencoder's own, latents are normalised as they were measured there.
    """
    if config.data.channels != measured.channels:
        raise ConfigError(
            f"`data.channels={config.data.channels}` differs from the {measured.channels} that the autoencoder was"
            " measured at",
            "leave `data.channels` out, or train the autoencoder so",
        )
    if config.data.size != measured.size:
        autoencoder().latent_shape(config.data.size)
        given, own = (f"{height} x {width}" for height, width in (config.data.size, measured.size))
        progress.note(f"images of {given} pixels; the autoencoder was measured at {own}")


def _unmirrored(config: Encode, given: Encode) -> Encode:
    """Return the settings without mirrored images, which captions of left and right forbid, unless they were given."""
    if "flip" in given.data.model_fields_set:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"flip": False})})


def _no_fields(source: ImageSource) -> Callable[[Sequence[int]], list[Fields]]:
    """Return what gives samples no fields of a condition."""
    return lambda indices: [({}, {})] * len(indices)
