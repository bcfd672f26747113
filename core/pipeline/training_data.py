"""What a denoiser, or a classifier to guide it, is trained on: latents that `encode` wrote, or pixels themselves."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..conditioning.conditioning import Conditioning, NoConditioning
from ..conditioning.labels import LABELS
from ..conditioning.registry import conditioning_of, recorded
from ..errors import ConfigError, DataError
from ..images.loader import Preparation
from ..images.sets import ImageSources, data_of, image_sources, preparation_of, warn_of_change
from ..latents.conditions import ImageCondition, condition_again, condition_of
from ..latents.dataset import LatentSets
from ..latents.from_images import latents_of_images
from ..latents.sets import open_latents, read_latents
from ..latents.sharded import Reading
from ..progress import Progress
from ..runs.inputs import as_input, open_own, open_producer, own_folders
from ..runs.roles import AUTOENCODER, LATENTS
from ..runs.run import StageRun
from ..runs.schemas import size_of
from ..settings.fields import Run
from ..system.precision import Policy
from .loading import load_autoencoder


@dataclass(frozen=True)
class TrainingData:
    """Latents, or the images of an autoencoder that keeps pixels.

    described: the directory whose metadata describe them: the latents', or the autoencoder's. conditioning: what they
    are conditioned on, which may be less than came with them. images: None where there are latents. condition: what
    reads the condition of images, where that is not their labels.
    """

    described: StageRun
    autoencoder: StageRun
    conditioning: Conditioning
    images: ImageSources | None = None
    condition: ImageCondition | None = None

    def inputs(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Describe them as inputs of the stage in `folder`."""
        if self.images is None:
            given = {"latents": as_input(self.described, folder)}
        else:
            given = {**self.images.inputs, **({} if self.condition is None else self.condition.inputs)}
        return {**given, "autoencoder": as_input(self.autoencoder, folder)}

    def read(self, policy: Policy, progress: Progress, reading: Reading | Literal["auto"] = "auto") -> LatentSets:
        """Open them. reading: as of `read_latents`. Raises DataError as that does."""
        if self.images is None:
            warn_of_change(self.described.inputs.get("data", {}), self.autoencoder, progress)
            return read_latents(self.described, reading, policy.device, self.conditioning)
        network = load_autoencoder(self.autoencoder, policy).network
        flips = self.images.data.flip and (self.condition is None or self.condition.mirrors)
        images = self.images.read(progress)
        return latents_of_images(images, network, flips, policy, self.conditioning, self.condition)


def training_data(
    folder: Path | None, config: Run, policy: Policy, dropout: float = 0.0, kind: str = "data"
) -> TrainingData:
    """Open the latents in a folder, by default the run's own; or the images, where no latents exist or are needed.

    dropout: the share of conditions that the training is to drop. kind: of the conditions that it is to see; "data" is
    what came with the data. Raises DataError with the command to run where something is missing or has changed, and
    ConfigError where the data have no conditions of that kind.
    """
    if folder is None and not own_folders(LATENTS, config.root) and own_folders(AUTOENCODER, config.root):
        autoencoder = open_own(AUTOENCODER, config, setting="autoencoder")
        if load_autoencoder(autoencoder, policy).network.keeps_pixels:
            images = _images_of(autoencoder)
            condition = condition_of(images, kind)
            if condition is None:
                return TrainingData(autoencoder, autoencoder, _recorded(autoencoder, dropout, kind), images)
            images = condition.images
            conditioning = conditioning_of(recorded(condition.conditioning(images.train, images.val)), dropout)
            return TrainingData(autoencoder, autoencoder, conditioning, images, condition)
    latents, autoencoder = open_latents(folder, config)
    return TrainingData(latents, autoencoder, _recorded(latents, dropout, kind))


def training_data_of(denoiser: StageRun, config: Run) -> TrainingData:
    """Open what a denoiser was trained on. Raises DataError where it is missing, or changed since."""
    autoencoder = open_producer(denoiser, "autoencoder", AUTOENCODER, config)
    conditioning = conditioning_of(denoiser.metadata)
    if "latents" in denoiser.inputs or "data" not in denoiser.inputs:
        return TrainingData(open_producer(denoiser, "latents", LATENTS, config), autoencoder, conditioning)
    images = _images_of(autoencoder)
    condition = condition_again(images, conditioning)
    images = images if condition is None else condition.images
    return TrainingData(autoencoder, autoencoder, conditioning, images, condition)


def reader_of_images(generator: StageRun, config: Run) -> StageRun:
    """Return the stage that read the images which a generator was trained on: the one that encoded them, or it itself.

    Its autoencoder where it was trained on pixels, or its latents are gone or made anew. Raises DataError where that is
    missing, or changed.
    """
    if "data" in generator.config:
        return generator
    if "latents" in generator.inputs:
        with suppress(DataError):
            return open_producer(generator, "latents", LATENTS, config)
    return open_producer(generator, "autoencoder", AUTOENCODER, config)


def preparation_of_training(generator: StageRun, config: Run) -> Preparation:
    """Return how images became the squares that a generator was trained on. Raises DataError as `reader_of_images`."""
    producer = reader_of_images(generator, config)
    return replace(preparation_of(data_of(producer)), image_size=size_of(generator.metadata))


def _recorded(described: StageRun, dropout: float, kind: str) -> Conditioning:
    """Return the conditioning of that kind that a directory records. Raises ConfigError where it has another."""
    if kind == "none":
        return NoConditioning()
    # Latents with captions have labels as well.
    left_out = "conditioning" if kind == LABELS else None
    found = conditioning_of({name: each for name, each in described.metadata.items() if name != left_out}, dropout)
    if kind not in ("data", found.kind):
        message = f"`conditioning={kind}`: {described.path} has {found.kind}"
        raise ConfigError(message, f"encode the images again: `ldm encode --conditioning {kind}`")
    return found


def _images_of(autoencoder: StageRun) -> ImageSources:
    """Open the images that an autoencoder was measured on."""
    images = image_sources(data_of(autoencoder))
    recorded = autoencoder.inputs.get("data", {}).get("fingerprint")
    if recorded != images.as_input["fingerprint"]:
        message = f"{images.data.source} holds other images than those that {autoencoder.path} was measured on"
        raise DataError(message, autoencoder.anew)
    return images
