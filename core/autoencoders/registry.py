"""The kinds of codecs; autoencoders to and from a folder.

A folder of ours has the layout of `core.runs.weights`, its `config.json` with the latent statistics. Folders of
diffusers and the two files of TAEF2 are read as well.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import files
from ..errors import DataError
from ..runs.weights import (
    CONFIG,
    WEIGHTS,
    load_into,
    read_description,
    read_weights,
    require_fit,
    save_network,
)
from ..settings.families import FamilySection, NetworkConfig, kind_of
from . import pretrained, taef2
from .codec import Autoencoder, Codec
from .families import FAMILIES

_REMEDY = "give the folder of a whole autoencoder"


DIFFUSERS = pretrained.CLASSES
NETWORKS = FAMILIES  # the kinds that `load` reads


def config_of(model: FamilySection, channels: int) -> NetworkConfig:
    """Return the config of the network that settings ask for, for images of so many channels. Raises ConfigError."""
    return model.network_config(**({} if channels == 3 else {"in_channels": channels}))


def build(config: NetworkConfig) -> Autoencoder:
    """Build an untrained autoencoder; its weights are drawn from torch's global generator."""
    return Autoencoder(FAMILIES[kind_of(config, FAMILIES)].load_network()(config))


def save(autoencoder: Autoencoder, folder: Path, extra: Mapping[str, Any] | None = None) -> list[str]:
    """Write an autoencoder to a folder, each file whole or not at all, the configuration last.

    extra: JSON to be kept beside the configuration. Returns the names of the files.
    """
    codec = autoencoder.codec
    assert isinstance(codec, nn.Module)
    return save_network(
        codec,
        folder,
        codec.kind,
        codec.describe(),
        latent_mean=autoencoder.latent_mean.tolist(),
        latent_std=autoencoder.latent_std.tolist(),
        extra=dict(extra or {}),
    )


def fingerprint(folder: Path) -> str:
    """Return a sha256, hex, of the files that `load` would read. Raises DataError where the folder has none."""
    _refuse_pipeline(folder)
    names = (CONFIG, WEIGHTS, pretrained.WEIGHTS, taef2.ENCODER, taef2.DECODER)
    digests = {name: files.sha256_file(folder / name) for name in names if (folder / name).is_file()}
    if not digests:
        raise DataError(f"{folder} holds no autoencoder", "give a folder with config.json and safetensors weights")
    return files.sha256_json(digests)


def load(folder: Path) -> Autoencoder:
    """Load a folder of ours, of diffusers, or with the files of TAEF2, on the CPU, in evaluation mode.

    Only a folder of ours has latent statistics; the others have mean 0 and deviation 1 until they are measured.
    Raises DataError naming what is missing, damaged, of an unknown kind or does not fit.
    """
    if (folder / taef2.ENCODER).exists() or (folder / taef2.DECODER).exists():
        return Autoencoder(taef2.load_taef2(folder)).eval()
    _refuse_pipeline(folder)
    if "_class_name" in files.read_json(folder / CONFIG, _REMEDY):
        return Autoencoder(pretrained.load_diffusers(folder)).eval()
    return _load_own(folder).eval()


def _refuse_pipeline(folder: Path) -> None:
    if (folder / "model_index.json").exists():
        raise DataError(f"{folder} holds a whole diffusers pipeline", f"give its autoencoder: {folder / 'vae'}")


def _load_own(folder: Path) -> Autoencoder:
    described = read_description(folder, FAMILIES, _REMEDY)
    kind, path = described["kind"], folder / CONFIG
    family = FAMILIES[kind]
    # On the meta device first: a damaged size must not allocate memory.
    with torch.device("meta"):
        try:
            codec = family.load_network()(family.config.from_json(described["config"]))
        except Exception as error:
            raise DataError(f"{path} does not describe a {kind}: {error}", _REMEDY) from error
    tensors = read_weights(folder, described, _REMEDY)
    require_fit(codec, tensors, folder / WEIGHTS, _REMEDY)
    # `to_empty`, on meta tensors, would load sympy and what compiles, for a second.
    load_into(codec, _laid_out_as(codec, tensors), folder / WEIGHTS, _REMEDY, assign=True)
    autoencoder = Autoencoder(codec)
    autoencoder.set_statistics(*(_numbers(described, name, path, codec) for name in ("latent_mean", "latent_std")))
    return autoencoder


def _laid_out_as(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors, as float32, in the memory format of a network on the meta device."""
    own = network.state_dict()
    return {
        name: torch.empty_strided(own[name].shape, own[name].stride(), dtype=own[name].dtype).copy_(tensor)
        for name, tensor in tensors.items()
    }


def _numbers(described: Mapping[str, Any], name: str, path: Path, codec: Codec) -> Tensor:
    values = described.get(name)
    if not isinstance(values, list) or [type(value) for value in values] != [float] * codec.latent_channels:
        raise DataError(f"{path} is damaged: {name} is not a list of {codec.latent_channels} numbers", _REMEDY)
    return torch.tensor(values, dtype=torch.float32)
