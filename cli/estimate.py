"""`ldm estimate`: the settings of a recipe's stages, as each would read them, and what each would train."""

import importlib
from typing import TYPE_CHECKING, Any

from ..core.system.settings import Machine
from ..stages.configs.estimate import Estimate
from .layers import merged_config

if TYPE_CHECKING:
    from .console import Console

_STAGES = ("train-vqvae", "encode", "train-dit", "train-classifier", "sample")
_MODULES = ("tools.estimate", "tools.estimate_basis")
_TASKS = ("autoencoding", "denoising", "classifying")


def run(config: Estimate, console: "Console") -> Any:
    """Estimate what the stages of a recipe cost. The stages know nothing of each other. Returns the outcome."""
    estimate, basis = (importlib.import_module(f"..stages.{name}", __package__) for name in _MODULES)
    vqvae, dit, classifier = (importlib.import_module(f"..core.training.tasks.{name}", __package__) for name in _TASKS)
    merged = {stage: merged_config(stage, config.recipe, (), _flags(config, stage)).config for stage in _STAGES}
    stages = basis.Stages(
        **{stage.replace("-", "_"): settings for stage, settings in merged.items()},
        tasks={
            "train-vqvae": vqvae.AutoencodingTask,
            "train-dit": dit.DenoisingTask,
            "train-classifier": classifier.ClassifyingTask,
        },
        denoiser=dit.network_config,
    )
    return estimate.estimate(config, stages, console)


def _flags(config: Estimate, stage: str) -> dict[str, str | bool]:
    """Return what was said here of a stage's settings, as its own flags would say it."""
    usual = Machine().model_dump()
    said: dict[str, Any] = {
        f"machine.{name}": value for name, value in config.machine.model_dump().items() if value != usual[name]
    }
    if stage == "train-dit":
        of_denoiser = {
            "model.preset": config.preset,
            "train.batch_size": config.batch_size,
            "train.shard": config.shard,
        }
        said |= {key: value for key, value in of_denoiser.items() if value is not None}
    return {key: value if isinstance(value, bool) else str(value) for key, value in said.items()}
