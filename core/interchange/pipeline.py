"""A folder of a pipeline of diffusers: written whole, and read without running what it names."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..autoencoders.codec import Autoencoder
from ..autoencoders.registry import DIFFUSERS
from ..denoisers.network import DenoiserNetwork
from ..errors import DataError
from ..files import read_json
from ..runs.weights import CONFIG, read_safetensors, read_state_dict
from . import scheduler, transformer
from .exporters import DenoiserExporter, denoiser_exporters
from .mapping import Given
from .scheduler import Process

INDEX = "model_index.json"
_WEIGHTS = "diffusion_pytorch_model"
_REMEDY = "give a folder that DiTPipeline or LDMPipeline.save_pretrained wrote"


@dataclass(frozen=True)
class Parts:
    """What a pipeline is made of, as diffusers' own objects."""

    network: nn.Module
    autoencoder: nn.Module
    scheduler: Any


def write_pipeline(folder: Path, parts: Parts, exporter: DenoiserExporter, class_names: Sequence[str]) -> None:
    """Write a folder that the exporter's pipeline loads, in safetensors, with the classes' names, if there are any."""
    import diffusers  # here, since it takes seconds to import

    given = {exporter.NETWORK: parts.network, exporter.AUTOENCODER: parts.autoencoder, "scheduler": parts.scheduler}
    names = {"id2label": {str(index): name for index, name in enumerate(class_names)}} if class_names else {}
    pipeline: Any = getattr(diffusers, exporter.PIPELINE)(**given, **names)
    pipeline.register_to_config(**names)  # The constructor keeps only what it makes of it.
    pipeline.save_pretrained(folder, safe_serialization=True)


def labels_in_diffusers(class_names: Sequence[str]) -> dict[str, int]:
    """Return what DiTPipeline calls the classes: a name with commas is several, the last class of a name has it."""
    parts = [(part.strip(), index) for index, name in enumerate(class_names) for part in name.split(",")]
    return dict(sorted(dict(parts).items()))


@dataclass(frozen=True)
class PipelineFolder:
    """A pipeline's folder that was looked at.

    clips: whether its sampler clips x0, as ours does not.
    """

    path: Path
    exporter: DenoiserExporter
    class_names: dict[int, str]
    process: Process
    clips: bool

    @property
    def autoencoder(self) -> Path:
        return self.path / self.exporter.AUTOENCODER

    def load_denoiser(self) -> DenoiserNetwork:
        """Load the denoiser. Raises DataError for one that no family here can be."""
        folder = self.path / self.exporter.NETWORK
        tensors, path = _read_weights(folder)
        named = max(self.class_names, default=-1) + 1
        settings, process = read_json(folder / CONFIG), self.process
        given = Given(settings, tensors, path, named, process.ahead, process.time_scale)
        return self.exporter.from_diffusers(given)


def open_pipeline(path: Path) -> PipelineFolder:
    """Look at a pipeline's folder. Raises DataError where it is none, of the library's own classes, that is known."""
    index = read_json(path / INDEX, _REMEDY)
    known = {exporter.PIPELINE: exporter for exporter in denoiser_exporters() if exporter.PIPELINE}
    if str(index.get("_class_name")) not in known:
        raise DataError(f"{path / INDEX} describes a {index.get('_class_name')}, not a {' or '.join(known)}", _REMEDY)
    exporter = known[index["_class_name"]]
    for part, allowed in ((exporter.NETWORK, exporter.CLASS_NAMES), (exporter.AUTOENCODER, DIFFUSERS)):
        if not _is_one_of(index.get(part), allowed):
            raise DataError(f"{path / INDEX}: {part} is {index.get(part)!r}, not one of {', '.join(allowed)}", _REMEDY)
    where = path / "scheduler" / "scheduler_config.json"
    config = read_json(where, _REMEDY)
    names, process = _class_names(index.get("id2label"), path), scheduler.from_diffusers(config, str(where))
    return PipelineFolder(path, exporter, names, process, _clips(config))


def use_scaling_factor(autoencoder: Autoencoder, folder: Path, shifts: bool = False) -> None:
    """Give an autoencoder from a diffusers folder the latent space of that folder's scaling factor.

    Which is what denoisers on its latents were trained with: 1 / scaling_factor for every deviation, and mean 0, or
    shift_factor if `shifts`. Raises DataError where config.json has none.
    """
    path = folder / CONFIG
    described = read_json(path)

    def number(name: str, given: object, least: float) -> float:
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not least < given < math.inf:
            raise DataError(f"{path}: {name} is {given!r}", "write there what the denoiser was trained with")
        return float(given)

    factor = number("scaling_factor", described.get("scaling_factor"), 0)
    shift = number("shift_factor", described.get("shift_factor") or 0, -math.inf) if shifts else 0.0
    channels = autoencoder.latent_channels
    autoencoder.set_statistics(torch.full((channels,), shift), torch.full((channels,), 1 / factor))


def _is_one_of(entry: object, allowed: Sequence[str]) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and entry[0] == "diffusers" and entry[1] in allowed


def _class_names(given: object, path: Path) -> dict[int, str]:
    """Read the names of classes; there may be none."""
    entries = given if isinstance(given, Mapping) else {}
    names: dict[int, str] = {}
    for key, name in entries.items():
        if not (str(key).isdecimal() and int(key) < transformer.NULL_CLASS and isinstance(name, str)):
            raise DataError(f"{path / INDEX}: id2label has {key!r}: {name!r}", "give names to the classes 0 to 999")
        names[int(key)] = name
    return names


def _clips(config: Mapping[str, Any]) -> bool:
    by_default = str(config.get("_class_name")) in ("DDIMScheduler", "DDPMScheduler")
    return bool(config.get("clip_sample", by_default) or config.get("thresholding", False))


def _read_weights(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """Read a model's weights: safetensors, in one file or several, or else its `.bin`, weights only."""
    whole, parts = folder / f"{_WEIGHTS}.safetensors", folder / f"{_WEIGHTS}.safetensors.index.json"
    if parts.is_file() and not whole.is_file():
        weight_map = read_json(parts, _REMEDY).get("weight_map")
        names = sorted(set(weight_map.values())) if isinstance(weight_map, dict) else []
        if not names or any(Path(str(name)).name != name for name in names):
            raise DataError(f"{parts} names no files beside it", _REMEDY)
        tensors: dict[str, Tensor] = {}
        for name in names:
            tensors |= read_safetensors(folder / name, _REMEDY)
        return tensors, parts
    pickled = folder / f"{_WEIGHTS}.bin"
    if pickled.is_file() and not whole.is_file():
        return read_state_dict(pickled, _REMEDY), pickled
    return read_safetensors(whole, _REMEDY), whole
