"""`ldm train-var`: tokens of several scales in, a next-scale transformer out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.autoencoders.codec import Autoencoder
from ..core.autoregressive import registry
from ..core.autoregressive.sampling import TokenSampling
from ..core.autoregressive.var import NextScaleTransformer
from ..core.autoregressive.var_config import NextScaleConfig
from ..core.conditioning.class_names import class_flag
from ..core.latents.dataset import LatentSets
from ..core.pipeline.token_drawing import token_sampling
from ..core.pipeline.training_data import TrainingData
from ..core.progress import Outcome, Progress
from ..core.runs.roles import NEXT_SCALE
from ..core.system.precision import Policy
from ..core.training.generators import Kind, train_generator
from ..core.training.sample_evaluator import refuse_sampler
from ..core.training.tasks.next_scale import NextScaleTask, network_config
from .configs import TrainVAR


def run(config: TrainVAR, progress: Progress) -> Outcome:
    """Train a next-scale transformer on the tokens of a run's latents. Returns its folder."""
    return train_generator(config, _NextScale(config), progress)


class _NextScale(Kind):
    """What its training has of its own."""

    config: TrainVAR
    noun = "transformer"
    role = NEXT_SCALE
    families = registry.FAMILIES

    def network(self, data: TrainingData, autoencoder: Autoencoder) -> NextScaleConfig:
        return network_config(self.config, data, autoencoder)

    def sampling(self, data: TrainingData) -> TokenSampling:
        refuse_sampler(self.config.metrics, "tokens are drawn without one")
        return token_sampling(data.conditioning.has_null, self.config.metrics.cfg)

    def task(
        self, network: NextScaleConfig, latents: LatentSets, autoencoder: Autoencoder, policy: Policy
    ) -> NextScaleTask:
        return NextScaleTask(self.config, network, latents, autoencoder, policy)

    def describe(self, network: NextScaleConfig) -> Mapping[str, Any]:
        return {"scales": list(network.scales), "label_dropout": network.label_dropout}

    def save(self, network: NextScaleTransformer, folder: Path, extra: dict[str, Any]) -> None:
        registry.save(network, folder, extra)

    def sample_flags(self, data: TrainingData) -> str | None:
        asked = class_flag(data.conditioning.class_names)
        return f"{asked}--cfg {2.5 if data.conditioning.has_null else 1}"
