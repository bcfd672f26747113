"""Generators of tokens by family, and their directory: `config.json` beside `model.safetensors`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runs.weights import (
    WEIGHTS,
    config_of_family,
    load_into,
    read_description,
    read_weights,
    require_blocks,
    save_of_family,
    without_draws,
)
from ..settings.families import kind_of
from .families import FAMILIES
from .var import NextScaleTransformer
from .var_config import NextScaleConfig

NETWORKS = FAMILIES  # the kinds that `load` reads
REMEDY = "give the folder of a whole next-scale transformer"


def build(config: NextScaleConfig) -> NextScaleTransformer:
    """Build the network that a config describes, with fresh weights from torch's global generator."""
    network: NextScaleTransformer = FAMILIES[kind_of(config, FAMILIES)].load_network()(config)
    return network


def save(network: NextScaleTransformer, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write a network's weights and config into a folder; `extra` is stored in config.json, too."""
    save_of_family(network, folder, FAMILIES, extra)


def load(folder: Path) -> NextScaleTransformer:
    """Load a network from a folder that `save` wrote: fp32, on the CPU, in eval mode.

    Raises DataError naming the file that is missing, damaged, of another kind, or not matching the other file.
    """
    described = read_description(folder, FAMILIES, REMEDY)
    config = config_of_family(described, folder, FAMILIES, REMEDY)
    tensors = read_weights(folder, described, REMEDY)
    assert isinstance(config, NextScaleConfig)
    require_blocks(tensors, config.num_blocks, folder, REMEDY)
    with without_draws():  # The loaded tensors replace its parameters.
        network = build(config)
    load_into(network, tensors, folder / WEIGHTS, REMEDY, assign=True)
    return network.eval()
