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
    sections = read_recipe(config.recipe).tree if config.recipe else {}
    recipe = {
        STAGES[command].writes[0].role.name: merged_config(command, config.recipe, (), _flags(config, command)).config
        for command in pipeline(sections)
        if STAGES[command].cost
    }
    # What no pipeline has, but the recipe: each beside the stage whose kind of directory it makes another of.
    recipe |= {
        command: merged_config(command, config.recipe, (), _flags(config, command)).config
        for command, stage in STAGES.items()
        if command in sections and stage.cost and not stage.targets
    }
    return estimate.estimate(config, SimpleNamespace(**recipe), console)


def _flags(config: Estimate, stage: str) -> dict[str, str | bool]:
    """Return the settings of a stage that were given here, by dotted key."""
    usual = Machine().model_dump()
    given: dict[str, Any] = {
        f"machine.{name}": value for name, value in config.machine.model_dump().items() if value != usual[name]
    }
    if STAGES[stage].writes[0].role is DENOISER and STAGES[stage].targets:
        of_denoiser = {
            "model.preset": config.preset,
            "train.batch_size": config.batch_size,
            "train.shard": config.shard,
        }
        given |= {key: value for key, value in of_denoiser.items() if value is not None}
    return {key: value if isinstance(value, bool) else str(value) for key, value in given.items()}
