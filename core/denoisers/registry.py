"""The denoisers by family, and their directory: `config.json` beside `model.safetensors`."""

from pathlib import Path
from typing import Any

from ..conditioning.conditioning import Conditioning
from ..errors import ConfigError
from ..runs.weights import (
    CONFIG,
    WEIGHTS,
    config_of_family,
    load_into,
    read_description,
    read_weights,
    require_blocks,
    save_of_family,
    without_draws,
)
from ..settings.families import Family, kind_of
from .config import DenoiserConfig
from .families import FAMILIES
from .network import DenoiserNetwork, check_latents

NETWORKS = FAMILIES  # the kinds that `load` reads
REMEDY = "give the folder of a whole denoiser"


def require_fields(family: str, conditioning: Conditioning) -> None:
    """Raise ConfigError where the data's conditions have fields that a family's networks do not take."""
    network: Any = FAMILIES[family].load_network()
    if not _takes(network, conditioning):
        taking = families_taking(conditioning)
        raise ConfigError(
            f"the {family} family takes {' and '.join(network.fields) or 'no condition'}, not {conditioning.kind}",
            f"choose a preset of {' or '.join(taking)}, such as `model.preset={preset_for(conditioning)}`"
            if taking
            else "choose a preset of another family",
        )


def families_taking(conditioning: Conditioning) -> list[str]:
    """List the families whose networks take these conditions."""
    networks: dict[str, Any] = {name: family.load_network() for name, family in FAMILIES.items()}
    return [name for name, network in networks.items() if _takes(network, conditioning)]


def _takes(network: Any, conditioning: Conditioning) -> bool:
    scalars = conditioning.sizes.get("scalars", ()) if network.takes_scalars else ()
    return set(conditioning.fields) <= {*network.fields, *scalars}


def preset_for(conditioning: Conditioning) -> str:
    """Return the default preset of the first family that takes these conditions."""
    preset: str = FAMILIES[families_taking(conditioning)[0]].config.default_preset
    return preset


def require_any_size(folder: Path, asked: str, trained: str) -> None:
    """Raise ConfigError where the network in a folder takes no other latents than those that it was trained on.

    asked: the setting that needs others. trained: the size of the images that it draws, in words.
    """
    kind = read_description(folder, FAMILIES, REMEDY)["kind"]
    others = [name for name, family in FAMILIES.items() if _any_size(family)]
    if kind not in others:
        raise ConfigError(
            f"{asked}: the network, {kind}, draws at the size that it was trained on alone, {trained}",
            f"leave it out, or train one of the families {', '.join(others)}",
        )


def require_equal_blocks(folder: Path, asked: str, least: int) -> None:
    """Raise ConfigError where the network in a folder is not a row of so many equal blocks. asked: for what."""
    kind, found = read_description(folder, FAMILIES, REMEDY)["kind"], read_config(folder)
    network: Any = FAMILIES[kind].load_network()
    if not network.uniform or (found.num_blocks or 0) < least:
        what = f"{found.num_blocks} blocks" if network.uniform else "blocks that are not alike"
        raise ConfigError(f"{asked}: the network, {kind}, has {what}", "leave it out")


def require_scalars(folder: Path, asked: str) -> None:
    """Raise ConfigError where the network in a folder adds no scalars to its time. asked: the setting that needs it."""
    kind = read_description(folder, FAMILIES, REMEDY)["kind"]
    if not hasattr(outline(read_config(folder)), "scalars"):
        raise ConfigError(
            f"{asked}: the network, {kind}, takes no guidance scale as an input", "distill at one: `guidance=3,3`"
        )


def require_crops(config: DenoiserConfig) -> None:
    """Raise ConfigError where a network adds no scalars to its time, and so has no condition of crops."""
    if not hasattr(outline(config), "scalars"):
        raise ConfigError(
            f"the latents have crops, of which the {kind_of(config, FAMILIES)} family takes no condition",
            "train on whole images alone: `crop_share=0`",
        )


def _any_size(family: Family) -> bool:
    network: Any = family.load_network()
    return bool(network.any_size)


def build(config: DenoiserConfig) -> DenoiserNetwork:
    """Build the network that a config describes, with fresh weights from torch's global generator."""
    network: DenoiserNetwork = FAMILIES[kind_of(config, FAMILIES)].load_network()(config)
    return network


def outline(config: DenoiserConfig, device: str = "meta") -> DenoiserNetwork:
    """Build a network without drawing its weights; on the meta device, and for fake tensors, nothing is allocated."""
    with without_draws(device):
        return build(config)


def save(model: DenoiserNetwork, folder: Path, extra: dict[str, Any] | None = None) -> None:
    """Write a network's weights and config into a folder; `extra` is stored in config.json, too."""
    save_of_family(model, folder, FAMILIES, extra)


def load(folder: Path, latent_shape: tuple[int, ...] | None = None) -> DenoiserNetwork:
    """Load a network from a folder that `save` wrote: fp32, on the CPU, in eval mode.

    latent_shape: (C, H, W), where it is known from elsewhere. Raises DataError naming the file that is missing,
    damaged, of another kind, of other latents, or not matching the other file.
    """
    described = read_description(folder, FAMILIES, REMEDY)
    config = _config(described, folder)
    check_latents(config, latent_shape, folder / CONFIG, REMEDY)
    tensors = read_weights(folder, described, REMEDY)
    require_blocks(tensors, config.num_blocks, folder, REMEDY)
    model = outline(config)  # The loaded tensors replace its parameters.
    load_into(model, tensors, folder / WEIGHTS, REMEDY, assign=True)
    return model.eval()


def read_config(folder: Path) -> DenoiserConfig:
    """Read the network's config from a folder's config.json; DataError where it is not one of ours."""
    return _config(read_description(folder, FAMILIES, REMEDY), folder)


def _config(described: dict[str, Any], folder: Path) -> DenoiserConfig:
    config = config_of_family(described, folder, FAMILIES, REMEDY)
    assert isinstance(config, DenoiserConfig)
    return config
