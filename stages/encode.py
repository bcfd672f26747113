"""`ldm encode`: images and an autoencoder in, WebDataset shards of latents out."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..core.autoencoders.codec import Autoencoder
from ..core.conditioning.captions import Fields
from ..core.conditioning.conditioning import Conditioning
from ..core.conditioning.registry import conditioning_of, recorded
from ..core.denoisers.registry import preset_for
from ..core.distributed import processes
from ..core.errors import ConfigError
from ..core.images.dataset import ImageSource
from ..core.images.sets import (
    MASKS,
    ImageSets,
    ImageSources,
    data_of,
    image_sources,
    inherit_data,
    warn_of_change,
)
from ..core.images.settings import Data
from ..core.latents.conditions import KINDS, ImageCondition, condition_of
from ..core.latents.encoding import Encoding, Part, Views, encode_split, statistics_of, token_maps
from ..core.latents.fields import CROPS, LABEL, MASK, Field
from ..core.latents.index import INDEX, write_index
from ..core.pipeline.loading import load_autoencoder
from ..core.progress import Outcome, Progress, number_of
from ..core.runs.inputs import as_input, open_own
from ..core.runs.outputs import claim, command_line, occupied, output_folder
from ..core.runs.pieces import Pieces
from ..core.runs.roles import AUTOENCODER, LATENTS
from ..core.runs.run import StageRun
from ..core.runs.schemas import size_recorded
from ..core.system.precision import Policy
from .configs import Encode


@dataclass(frozen=True)
class _Given:
    """What is encoded: images, by an autoencoder, and a condition of theirs. config: with the settings of the data."""

    config: Encode
    source: StageRun
    autoencoder: Callable[[], Autoencoder]
    images: ImageSources
    condition: ImageCondition | None

    def inputs(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Return all of it as inputs of the stage in `folder`."""
        conditioned_on = {} if self.condition is None else self.condition.inputs
        return {"autoencoder": as_input(self.source, folder), **self.images.inputs, **conditioned_on}

    @property
    def made_by(self) -> dict[str, str]:
        """The fingerprints of what labels, crops and masks come from; the autoencoder gives all other fields."""
        masks = {MASK: self.images.inputs[MASKS]["fingerprint"]} if self.config.data.masks else {}
        return {**dict.fromkeys((LABEL, CROPS), self.images.as_input["fingerprint"]), **masks}


@dataclass(frozen=True)
class _Encoded:
    """What was made of it: the shards of each split, and what the manifest says of their samples.

    maps: shapes of the codec's maps of tokens. speed: images encoded a second; 0 where all shards were there.
    """

    images: ImageSets
    conditioning: Conditioning | None
    parts: dict[str, list[Part]]
    shape: tuple[int, int, int]
    maps: list[list[int]]
    speed: float

    @property
    def hashes(self) -> dict[str, str]:
        """The sha256 of each shard, by its name."""
        return {part.shard.name: part.shard.sha256 for each in self.parts.values() for part in each}


def run(config: Encode, progress: Progress) -> Outcome:
    """Encode the training and validation images of a run. Returns the folder of the shards."""
    folder = output_folder(config)
    with occupied(folder, config.machine) as policy:
        given = _open(config, policy, progress)

        # Nothing to do where the same settings and inputs have made this folder.
        work = claim(folder, given.config, given.inputs(folder), progress)
        if work.complete:
            made = open_own(LATENTS, given.config, folder, "latents")
            return Outcome(folder, already_complete=True, next_commands=[_training(given.config, made.metadata)])

        encoded = _encode(given, Pieces(folder), policy, progress)

        # One process writes the index, the statistics and, last of all, the manifest.
        if not processes.world().is_main:
            return Outcome(folder)
        shards = {split: [part.shard for part in parts] for split, parts in encoded.parts.items()}
        metadata = _metadata(given, encoded, write_index(folder, shards))
        artifact = work.commit([*encoded.hashes, INDEX], metadata, encoded.hashes, encoded.speed or None)

    # What the command shows.
    size, images = sum(entry["bytes"] for entry in artifact.manifest["files"].values()), encoded.images
    conditions = {}
    if given.condition is not None and encoded.conditioning is not None:
        conditions = given.condition.summary(encoded.conditioning, images.train.source)
    summary = {
        "latents": f"{len(images.train):,} for training, {len(images.val):,} for validation",
        "shape": " × ".join(map(str, encoded.shape)),
        "size": f"{size / 1e6:.1f} MB in {number_of(len(encoded.hashes), 'shard')}",
        **conditions,
    }
    if given.config.crops:
        summary["crops"] = f"{given.config.crops} of each training image, which denoisers see as well"
    if encoded.speed:
        summary["speed"] = f"{encoded.speed:,.0f} images a second"
    return Outcome(folder, summary=summary, next_commands=[_training(given.config, metadata)])


def _open(config: Encode, policy: Policy, progress: Progress) -> _Given:
    """Open the autoencoder, and the images that it was trained on unless others are given."""
    source, asked = open_own(AUTOENCODER, config, config.autoencoder, "autoencoder"), config
    config = inherit_data(config, source)
    autoencoder = cache(lambda: load_autoencoder(source, policy).network)
    _check_form(config, data_of(source), autoencoder, progress)
    if config.crops and config.data.masks:
        message = f"`crops={config.crops}` with `data.masks`: crops have no masks"
        raise ConfigError(message, "leave out `crops`, or set `data.masks=no`")
    images = image_sources(config.data)
    warn_of_change(images.as_input, source, progress)
    condition = condition_of(images, config.conditioning, config, policy.device)
    if condition is not None:
        images = condition.images
        config = config if condition.mirrors else _unmirrored(config, asked)
    return _Given(config, source, autoencoder, images, condition)


def _encode(given: _Given, pieces: Pieces, policy: Policy, progress: Progress) -> _Encoded:
    """Encode both splits; shards that are there are not made again."""
    config, network = given.config, given.autoencoder()
    maps = token_maps(network, config.data.size, policy)
    images = given.images.read(progress, keep=False)
    conditioning: Conditioning | None = None
    fields_of = _no_fields
    if given.condition is not None:
        conditioning = given.condition.conditioning(images.train.source, images.val.source, progress)
        fields_of = partial(given.condition.fields, conditioning)
    job = Encoding(config.shard_size, config.batch_size, network, policy, pieces, bool(maps), fields_of)
    views = Views(config.data.flip, config.crops, config.least_crop)
    started = time.monotonic()
    train, num_train = encode_split(images.train, "train", views, job, progress)
    val, num_val = encode_split(images.val, "val", Views(), job, progress)
    speed = (num_train + num_val) / (time.monotonic() - started)
    parts = {"train": list(train), "val": list(val)} if processes.world().is_main else {}
    shape = network.latent_shape(config.data.size)
    return _Encoded(images, conditioning, parts, shape, maps, speed)


def _metadata(given: _Given, encoded: _Encoded, fields: Mapping[str, Field]) -> dict[str, Any]:
    """Return what the manifest says of the latents."""
    config, source, images = given.config, given.source, encoded.images
    made_by, conditioning = given.made_by, encoded.conditioning
    if given.condition is not None and conditioning is not None:
        made_by |= dict.fromkeys(given.condition.names(conditioning), given.condition.fingerprint)
    return {
        "latent_shape": list(encoded.shape),
        "dtype": "float16",
        "before_quantisation": True,
        "fields": {name: form.describe(made_by.get(name, source.fingerprint)) for name, form in fields.items()},
        **({"token_maps": encoded.maps} if encoded.maps else {}),
        "flips": config.data.flip,
        "class_names": list(images.class_names),
        "class_counts": np.bincount(images.train.labels, minlength=len(images.class_names)).tolist(),
        **size_recorded(config.data.size),
        "crop": {"crop": "centre, as ADM", "pad": "none, padded", "stretch": "none, stretched"}[config.data.fit],
        "autoencoder": source.fingerprint,
        "shards": {split: [part.shard.name for part in parts] for split, parts in encoded.parts.items()},
        "samples": {"train": len(images.train), "val": len(images.val)},
        "statistics": statistics_of(encoded.parts["train"], encoded.shape[0]),
        "skipped": images.skipped,
        **({} if conditioning is None else recorded(conditioning)),
    }


def _training(config: Encode, metadata: dict[str, Any]) -> str:
    """Return the command that trains on the latents: VAR on maps of tokens, else a DiT if it takes their conditions."""
    conditioning = conditioning_of(metadata)
    if conditioning.kind not in KINDS:
        return command_line("train-var" if "token_maps" in metadata else "train-dit", config)
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
