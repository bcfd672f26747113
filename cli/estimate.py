"""`ldm estimate`: the settings of a recipe's stages, as each would read them."""

import importlib
from types import SimpleNamespace
from typing import Any

from ..core.progress import Progress
from ..core.runs.roles import DENOISER
from ..core.system.settings import Machine
from ..stages.configs.estimate import Estimate
from ..stages.table import STAGES, pipeline
from .layers import merged_config
from .recipe import read_recipe


def run(config: Estimate, console: Progress) -> Any:
    """Estimate what the stages of a recipe cost. Returns the outcome."""
    estimate = importlib.import_module("..stages.tools.estimate", __package__)
    recipe = {
        STAGES[command].writes[0].role.name: merged_config(command, config.recipe, (), _flags(config, command)).config
        for command in pipeline(read_recipe(config.recipe).tree if config.recipe else ())
        if STAGES[command].cost
    }
    return estimate.estimate(config, SimpleNamespace(**recipe), console)


def _flags(config: Estimate, stage: str) -> dict[str, str | bool]:
    """Return the settings of a stage that were given here, by dotted key."""
    usual = Machine().model_dump()
    given: dict[str, Any] = {
        f"machine.{name}": value for name, value in config.machine.model_dump().items() if value != usual[name]
    }
    if STAGES[stage].writes[0].role is DENOISER:
        of_denoiser = {
            "model.preset": config.preset,
            "train.batch_size": config.batch_size,
            "train.shard": config.shard,
        }
        given |= {key: value for key, value in of_denoiser.items() if value is not None}
    return {key: value if isinstance(value, bool) else str(value) for key, value in given.items()}
