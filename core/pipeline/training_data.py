"""What a denoiser, or a classifier to guide it, is trained on: latents that `encode` wrote, or pixels themselves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..conditioning.conditioning import Conditioning, NoConditioning
from ..conditioning.registry import conditioning_of
from ..errors import DataError
from ..images.sets import ImageSources, data_of, image_sources, warn_of_change
from ..latents.dataset import LatentSets
from ..latents.from_images import latents_of_images
from ..latents.sets import open_latents, read_latents
from ..latents.sharded import Reading
from ..progress import Progress
from ..runs.inputs import as_input, open_own, open_producer, own_folders
from ..runs.roles import AUTOENCODER, LATENTS
from ..runs.run import StageRun
from ..settings.fields import Run
from ..system.precision import Policy
from .loading import load_autoencoder


@dataclass(frozen=True)
class TrainingData:
    """Latents, or the images of an autoencoder that keeps pixels.

    described: the directory whose metadata describe them: the latents', or the autoencoder's. conditioning: what they
    are conditioned on, which may be less than came with them. images: None where there are latents.
    """

    described: StageRun
    autoencoder: StageRun
    conditioning: Conditioning
    images: ImageSources | None = None

    def inputs(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Describe them as inputs of the stage in `folder`."""
        given = {"latents": as_input(self.described, folder)} if self.images is None else self.images.inputs
        return {**given, "autoencoder": as_input(self.autoencoder, folder)}

    def read(self, policy: Policy, progress: Progress, reading: Reading | Literal["auto"] = "auto") -> LatentSets:
        """Open them. reading: as of `read_latents`. Raises DataError as that does."""
        if self.images is None:
            warn_of_change(self.described.inputs.get("data", {}), self.autoencoder, progress)
            return read_latents(self.described, reading, policy.device, self.conditioning)
        network = load_autoencoder(self.autoencoder, policy).network
        return latents_of_images(self.images.read(progress), network, self.images.data.flip, policy, self.conditioning)


def training_data(
    folder: Path | None, config: Run, policy: Policy, dropout: float = 0.0, conditioned: bool = True
) -> TrainingData:
    """Open the latents in a folder, by default the run's own; or the images, where no latents exist or are needed.

    dropout: the share of conditions that the training is to drop. conditioned: whether it is to see any. Raises
    DataError with the command to run where something is missing or has changed.
    """

    def conditioning(described: StageRun) -> Conditioning:
        return conditioning_of(described.metadata, dropout) if conditioned else NoConditioning()

    if folder is None and not own_folders(LATENTS, config.root) and own_folders(AUTOENCODER, config.root):
        autoencoder = open_own(AUTOENCODER, config, setting="autoencoder")
        if load_autoencoder(autoencoder, policy).network.keeps_pixels:
            return TrainingData(autoencoder, autoencoder, conditioning(autoencoder), _images_of(autoencoder))
    latents, autoencoder = open_latents(folder, config)
    return TrainingData(latents, autoencoder, conditioning(latents))


def training_data_of(denoiser: StageRun, config: Run) -> TrainingData:
    """Open what a denoiser was trained on. Raises DataError where it is missing, or changed since."""
    autoencoder = open_producer(denoiser, "autoencoder", AUTOENCODER, config)
    conditioning = conditioning_of(denoiser.metadata)
    if "latents" in denoiser.inputs or "data" not in denoiser.inputs:
        return TrainingData(open_producer(denoiser, "latents", LATENTS, config), autoencoder, conditioning)
    return TrainingData(autoencoder, autoencoder, conditioning, _images_of(autoencoder))


def _images_of(autoencoder: StageRun) -> ImageSources:
    """Open the images that an autoencoder was measured on."""
    images = image_sources(data_of(autoencoder))
    recorded = autoencoder.inputs.get("data", {}).get("fingerprint")
    if recorded != images.as_input["fingerprint"]:
        message = f"{images.data.source} holds other images than those that {autoencoder.path} was measured on"
        raise DataError(message, autoencoder.anew)
    return images
