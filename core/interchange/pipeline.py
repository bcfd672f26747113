"""A folder of a pipeline of diffusers: written whole, and read without running what it names."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..autoencoders.codec import Autoencoder
from ..autoencoders.registry import DIFFUSERS
from ..conditioning.text import TextConditioning
from ..denoisers.network import DenoiserNetwork
from ..errors import DataError
from ..files import read_json
from ..runs.weights import CONFIG, read_safetensors, read_state_dict
from . import scheduler, transformer
from .export_record import RECORD, read_record
from .exporters import DenoiserExporter, denoiser_exporters
from .mapping import Given
from .scheduler import Process
from .stock import Stock

INDEX, STATISTICS = "model_index.json", "latents.safetensors"
_WEIGHTS = "diffusion_pytorch_model"
_REMEDY = "give a folder of a pipeline of diffusers, as save_pretrained writes it"
_LACKING = {  # what networks of pipelines that are not read would need here
    "StableDiffusionXLPipeline": "its U-Net has transformers of another depth at each level, and takes sizes and crops"
    " beside the second encoder's vector of the whole text, which no U-Net here does; give a StableDiffusionPipeline",
}


@dataclass(frozen=True)
class Parts:
    """What a pipeline is made of, as diffusers' own objects.

    encoders: text encoders and tokenizers by name, None for one that the pipeline is without. why_not: of a run of
    texts without them, why, a sentence; its prompts are given as tensors. statistics: mean and deviation (C,) of
    latents where no layer of the autoencoder takes them in: it decodes latents times deviation plus mean.
    """

    stock: Stock
    network: nn.Module
    autoencoder: nn.Module
    scheduler: Any
    encoders: Mapping[str, Any] = field(default_factory=dict)
    why_not: str | None = None
    statistics: tuple[Tensor, Tensor] | None = None


def write_pipeline(folder: Path, parts: Parts, class_names: Sequence[str]) -> None:
    """Write a folder that the pipeline loads, in safetensors, with the classes' names, if there are any.

    Where prompts are given as tensors, no pipeline draws as the run does, and the parts alone are written.
    """
    import diffusers  # here, since it takes seconds to import

    stock = parts.stock
    given = {stock.network: parts.network, stock.autoencoder: parts.autoencoder, "scheduler": parts.scheduler}
    if parts.why_not is not None:
        for name, part in given.items():
            part.save_pretrained(folder / name)
        if parts.statistics is not None:
            mean, std = (values.view(1, -1, 1, 1).clone() for values in parts.statistics)
            save_file({"mean": mean, "std": std}, folder / STATISTICS)
        return
    parts.scheduler.register_to_config(**stock.scheduled)
    if stock.shifts:
        parts.autoencoder.register_to_config(shift_factor=0.0)  # type: ignore[operator]
    names = {"id2label": {str(index): name for index, name in enumerate(class_names)}} if class_names else {}
    pipeline: Any = getattr(diffusers, stock.name)(**given, **parts.encoders, **stock.made_with, **names)
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
    stock: Stock
    class_names: dict[int, str]
    process: Process
    clips: bool

    @property
    def autoencoder(self) -> Path:
        return self.path / self.stock.autoencoder

    def read_texts(self) -> TextConditioning | None:
        """Open its text encoders, and return how prompts become conditions; None where it takes none.

        Raises DataError where one is missing, or is not one.
        """
        if not self.stock.slots:
            return None
        settings = read_json(self.path / self.stock.network / CONFIG)
        width = settings.get("joint_attention_dim") or 0  # to which the vectors of encoders are padded
        is_ours = (self.path / RECORD).is_file()
        recorded = read_record(self.path).content["made_of"].get("texts") if is_ours else None
        return self.stock.read_texts(self.path, read_json(self.path / INDEX), int(width), recorded)

    def load_denoiser(self, texts: Mapping[str, int]) -> DenoiserNetwork:
        """Load the denoiser. texts: the fields of its config that follow from the text encoders.

        Raises DataError for one that no family here can be.
        """
        folder = self.path / self.stock.network
        tensors, path = _read_weights(folder)
        named = max(self.class_names, default=-1) + 1
        settings, process = read_json(folder / CONFIG), self.process
        given = Given(settings, tensors, path, named, process.ahead, process.time_scale, texts)
        return self.exporter.from_diffusers(given)


def open_pipeline(path: Path) -> PipelineFolder:
    """Look at a pipeline's folder. Raises DataError where it is not one that is known, of the library's own classes."""
    index = read_json(path / INDEX, _REMEDY)
    known = {stock.name: (stock, exporter) for exporter in denoiser_exporters() for stock in exporter.PIPELINES}
    name = str(index.get("_class_name"))
    if name not in known:
        raise DataError(f"{path / INDEX} describes a {name}, not a {' or '.join(known)}", _LACKING.get(name, _REMEDY))
    stock, exporter = known[name]
    for part, allowed in ((stock.network, exporter.CLASS_NAMES), (stock.autoencoder, DIFFUSERS)):
        if not _is_one_of(index.get(part), allowed):
            raise DataError(f"{path / INDEX}: {part} is {index.get(part)!r}, not one of {', '.join(allowed)}", _REMEDY)
    where = path / "scheduler" / "scheduler_config.json"
    config = read_json(where, _REMEDY)
    names, process = _class_names(index.get("id2label"), path), scheduler.from_diffusers(config, str(where))
    return PipelineFolder(path, exporter, stock, names, process, _clips(config))


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
