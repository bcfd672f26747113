"""`ldm train-denoiser`: latents in, or the pixels of images, a denoiser out."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.autoencoders.codec import Autoencoder
from ..core.conditioning.conditioning import Conditioning
from ..core.conditioning.crops import CROP
from ..core.conditioning.registry import asking
from ..core.conditioning.text import mixed
from ..core.denoisers import registry as denoisers
from ..core.denoisers.config import DenoiserConfig
from ..core.denoisers.network import DenoiserNetwork
from ..core.diffusion.names import CONSISTENCY
from ..core.errors import ConfigError
from ..core.latents.dataset import LatentSets
from ..core.latents.fields import CROPS, fields_of
from ..core.pipeline.generation import DEFAULT_CFG, Sampling, as_trained, check
from ..core.pipeline.loading import diffusion_of
from ..core.pipeline.training_data import TrainingData
from ..core.progress import Outcome, Progress
from ..core.runs.outputs import as_begun
from ..core.runs.roles import DENOISER
from ..core.system.precision import Policy
from ..core.training.generators import Kind, train_generator
from ..core.training.sample_evaluator import refuse_sampler
from ..core.training.start import Start
from ..core.training.tasks.denoising import DenoisingTask, crop_share, network_config
from .configs import TrainDenoiser


def run(config: TrainDenoiser, progress: Progress) -> Outcome:
    """Train a denoiser on a run's latents, or on its images where the autoencoder keeps pixels."""
    config = as_begun(config)
    return train_generator(config, _Denoiser(config), progress, config.train.shard)


class _Denoiser(Kind):
    """What a denoiser's training has of its own."""

    config: TrainDenoiser
    noun = "denoiser"
    role = DENOISER
    families = denoisers.FAMILIES

    def start(self, inputs: dict[str, Any], folder: Path) -> Start | None:
        """Open it; a consistency model is tuned from a network of the same process and prediction."""
        start, own = super().start(inputs, folder), self.config.diffusion
        if start is not None and own.objective == CONSISTENCY:
            before = diffusion_of(start.run)
            for name in ("schedule", "num_steps", "zero_terminal_snr", "prediction"):
                if getattr(own, name) != getattr(before, name):
                    raise ConfigError(
                        f"`diffusion.{name}={getattr(own, name)}`: {start.run.path} was trained with"
                        f" {getattr(before, name)}",
                        "give the same to tune it",
                    )
        return start

    def network(self, data: TrainingData, autoencoder: Autoencoder) -> DenoiserConfig:
        self._captions(data.conditioning)
        metadata = data.described.metadata
        crops = CROPS in (fields_of(metadata) or {})
        return network_config(self.config, metadata["latent_shape"], data.conditioning, crops)

    def sampling(self, data: TrainingData) -> Sampling:
        wanted, diffusion, has_null = self.config.metrics, self.config.diffusion, data.conditioning.has_null
        if diffusion.objective == CONSISTENCY:
            refuse_sampler(wanted, "a consistency model draws without one", but=("steps",))
        sampling = Sampling(
            cfg=(DEFAULT_CFG if has_null else 1.0) if wanted.cfg is None else wanted.cfg,
            sampler=wanted.sampler,
            steps=wanted.steps or None,
        )
        sampling = as_trained(sampling, diffusion).on(diffusion.most_steps)
        check(sampling, diffusion, has_null, data.described.metadata["latent_shape"][0])
        return sampling

    def task(
        self, network: DenoiserConfig, latents: LatentSets, autoencoder: Autoencoder, policy: Policy
    ) -> DenoisingTask:
        # Held-out captions are mixed as they were encoded, so that runs of other mixtures can be compared.
        train = latents.train.conditioned(self._captions(latents.conditioning))
        return DenoisingTask(self.config, network, replace(latents, train=train), autoencoder, policy)

    def _captions(self, conditioning: Conditioning) -> Conditioning:
        """Return the conditioning that reads training captions. Raises ConfigError as `mixed`."""
        config = self.config
        return mixed(conditioning, config.synthetic_share, config.synthetic_first, config.synthetic_falling)

    def describe(self, network: DenoiserConfig) -> Mapping[str, Any]:
        diffusion = self.config.diffusion.model_dump(mode="json")
        crops = {"crop_share": crop_share(self.config, crops=True)} if CROP in network.scalars else {}
        return {
            **crops,
            "diffusion": diffusion,
            "time_convention": "t = 0 is data, t = 1 is noise",
            "label_dropout": network.label_dropout,
        }

    def save(self, network: DenoiserNetwork, folder: Path, extra: dict[str, Any]) -> None:
        denoisers.save(network, folder, extra)

    def sample_flags(self, data: TrainingData) -> str | None:
        asked = asking(data.conditioning)
        return f"{asked}--cfg {3 if data.conditioning.has_null else 1}" if self.config.diffusion.draws else None
