"""Autoencoders of the diffusers library, from a local folder: AutoencoderKL, AutoencoderTiny, AutoencoderDC, VQModel.

Nothing is downloaded and no pickle is read. The `scaling_factor` and `shift_factor` of their configurations are not
used: our own statistics, measured per channel, replace them.
"""

import inspect
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..errors import DataError, as_data_error
from ..files import read_json
from .blocks import rotate_between
from .codec import Posterior
from .published_config import PublishedConfig

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
_MOST_LAYERS, _LARGEST_SIZE, _TRIED_LATENT = 64, 1 << 20, 4
CLASSES = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC", "VQModel")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class DiffusersCodec(nn.Module):
    """A network of the diffusers library as a `Codec`; a VQModel's latents are those before quantisation."""

    in_channels = 3
    latent_sides = None

    def __init__(self, model: nn.Module, kind: str) -> None:
        super().__init__()
        self.model, self.kind = model, kind

    @property
    def latent_channels(self) -> int:
        config: Any = self.model.config
        embedded = config.get("vq_embed_dim") if self.kind == "VQModel" else None
        return int(embedded or config["latent_channels"])

    @property
    def downsampling(self) -> int:
        config: Any = self.model.config
        widths = config.get("encoder_block_out_channels") or config["block_out_channels"]
        return 2 ** (len(widths) - 1)

    def encode(self, images: Tensor) -> Posterior:
        """Return raw latents (B, C, h, w); of AutoencoderKL, mean and deviation of the posterior."""
        model: Any = self.model
        encoded = model.encode(images)
        if "latent_dist" in encoded:
            return Posterior(encoded.latent_dist.mean, encoded.latent_dist.std)
        return Posterior(encoded[0])

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (B, 3, H, W), not clamped."""
        model: Any = self.model
        images: Tensor = model.decode(latents).sample
        return images

    @torch.no_grad()
    def rotate(self, rotation: Tensor) -> bool:
        """Rotate a VQModel's latent space; False for those in which that is not possible.

        The others have no codebook, and a decoder whose norms look at the codes (MoVQ) would see them rotated.
        """
        model: Any = self.model
        if self.kind != "VQModel" or model.config["norm_type"] == "spatial":
            return False
        codes = model.quantize.embedding.weight
        codes.copy_(codes @ rotation.to(codes).T)
        rotate_between(model.quant_conv, model.post_quant_conv, rotation)
        return True

    def describe(self) -> Mapping[str, Any]:
        """Return the arguments that the library's class takes, JSON."""
        config: Any = self.model.config
        return {
            name: config[name] for name in inspect.signature(type(self.model).__init__).parameters if name in config
        }


def build_diffusers(kind: str, config: Mapping[str, Any] | PublishedConfig) -> DiffusersCodec:
    """Build a network of one of the `CLASSES` without its weights.

    Raises ValueError for impossible sizes, and whatever the library raises for other configs that it cannot build.
    """
    arguments = dict(config)
    for key, value in arguments.items():
        sizes = value if isinstance(value, (list, tuple)) else [value]
        most = _MOST_LAYERS if "layers" in key else _LARGEST_SIZE
        if len(sizes) > _MOST_LAYERS or any(type(size) is int and not 0 <= size <= most for size in sizes):
            raise ValueError(f"{key} is out of range")
    with _quiet():
        model: nn.Module = _class(kind).from_config(arguments)
    return DiffusersCodec(model, kind)


AutoencoderKL, AutoencoderTiny, AutoencoderDC, VQModel = (partial(build_diffusers, kind) for kind in CLASSES)


def load_diffusers(folder: Path) -> DiffusersCodec:
    """Load a folder as `save_pretrained` writes it.

    Raises DataError naming the file: an unknown class, weights that are not safetensors, are
    missing, damaged or do not fit, images of other than three channels.
    """
    config = read_json(folder / CONFIG)
    kind = config.get("_class_name")
    if not isinstance(kind, str) or kind not in CLASSES:
        raise DataError(f"{folder / CONFIG} describes a {kind}", f"give one of {', '.join(CLASSES)}")
    _require_safetensors(folder)
    _require_described(folder, kind, config)
    with _loading(folder, kind), _quiet():
        model, report = _class(kind).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[problem]:
            name = problem.replace("_keys", "")
            raise DataError(
                f"{folder / WEIGHTS} does not fit {CONFIG}: {len(report[problem])} {name}, first {report[problem][0]}",
                "download or save it again",
            )
    with _loading(folder, kind):
        _require_runnable(kind, json.dumps(config))
    return DiffusersCodec(model.float(), kind)


def _require_described(folder: Path, kind: str, config: Mapping[str, Any]) -> None:
    """Refuse an invalid config, one of other than RGB images, or one of a network much larger than its weights,
    before memory is allocated for it."""
    with _loading(folder, kind):
        with safe_open(folder / WEIGHTS, "pt") as tensors:
            held = sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        with torch.device("meta"):
            codec = build_diffusers(kind, config)
    described: Any = codec.model.config
    for key in ("in_channels", "out_channels"):
        if described.get(key, 3) != 3:
            raise DataError(f"{folder / CONFIG} has {key} {described[key]}", "give an autoencoder of RGB images")
    wanted = sum(parameter.numel() for parameter in codec.parameters())
    if wanted > 2 * held + _LARGEST_SIZE:
        message = f"{folder / WEIGHTS} does not fit {CONFIG}: {held:,} numbers for a network of {wanted:,}"
        raise DataError(message, "download or save it again")


@lru_cache(maxsize=8)
@torch.no_grad()
def _require_runnable(kind: str, config: str) -> None:
    """Try a network of a config, JSON, without numbers. Raises ValueError, or whatever the library does."""
    with torch.device("meta"):
        codec = build_diffusers(kind, json.loads(config)).eval()
    side = _TRIED_LATENT * codec.downsampling
    images = torch.zeros(1, 3, side, side, device="meta")
    latents = codec.encode(images).mean
    wanted = (1, codec.latent_channels, _TRIED_LATENT, _TRIED_LATENT)
    for found, shape in ((latents, wanted), (codec.decode(latents), tuple(images.shape))):
        if found.shape != shape:
            raise ValueError(f"it returns {tuple(found.shape)}, not {shape}")


def _loading(folder: Path, kind: str) -> AbstractContextManager[None]:
    """Turn whatever the library raises on a folder that it cannot load into DataError."""
    return as_data_error(f"{folder} cannot be loaded as {kind}", "download or save it again")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library: what it warns of is either refused or does not matter."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _require_safetensors(folder: Path) -> None:
    if (folder / WEIGHTS).is_file():
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise DataError(
            f"{folder / pickles[0]} is a pickle, which can run any code when read, and is not opened",
            "convert it where you trust it: in diffusers, save_pretrained(FOLDER, safe_serialization=True)",
        )
    raise DataError(f"{folder / WEIGHTS} does not exist", "give a folder that diffusers' save_pretrained wrote")


def _class(kind: str) -> Any:
    import diffusers  # here, since it takes seconds to import and most runs have no use for it

    return getattr(diffusers, kind)
