"""Image networks of the library transformers, from a local folder: DINOv2, CLIP, ViT, ConvNeXt, ResNet and others.

The Fréchet distance in DINOv2's features agrees with people better than the FID does (Stein et al. 2023, "Exposing
flaws of generative model evaluation metrics").
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, DataError, as_data_error
from ..files import read_json, sha256_file, sha256_files
from ..runs.weights import CONFIG, WEIGHTS, require_file
from .extractor import Extractor

REMEDY = (
    "give a folder with config.json, model.safetensors and preprocessor_config.json, as `save_pretrained` writes it"
)
PREPROCESSOR = "preprocessor_config.json"
_CLASSIFIES = "ForImageClassification"
_BICUBIC = 3  # PIL's number, which preprocessor_config.json keeps


def open_transformers(folder: Path, device: torch.device) -> Extractor:
    """Open an image network. Features: its pooled output, CLIP's embedding, or what a classifier's head reads.

    Only a classifier has logits. Images are resized to the network's size as a whole, not cropped. No code of the
    folder runs. Raises ConfigError when transformers is not installed; DataError naming the file that is missing,
    damaged, or not of an image network.
    """
    library = transformers_library("this extractor needs")
    described = described_network(folder, REMEDY)
    size, mean, std, mode = _preparation(folder / PREPROCESSOR)

    # The network and its weights; a base model's pooler may be missing, everything else has to be there.
    kind = str(described.get("model_type"))
    architecture = str((described.get("architectures") or [""])[0])
    classifies = architecture.endswith(_CLASSIFIES)
    loader: Any = library.AutoModelForImageClassification if classifies else library.AutoModel
    if kind.startswith("clip"):
        loader = library.CLIPVisionModelWithProjection
    network, pooled = load_network(folder, loader, "image network", REMEDY)
    network.to(device)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = F.interpolate(images, (size, size), mode=mode, antialias=True, align_corners=False).clamp(-1, 1)
        shape = (1, 3, 1, 1)
        pixels = ((pixels + 1) / 2 - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)
        if classifies:
            return _head_input(network, pixels)
        features = _pooled(network(pixel_values=pixels), pooled)
        return features, features.new_zeros(len(features), 0)

    # A first pass shows how many features there are, and refuses a network that does not take images.
    with as_data_error(f"{folder} holds no image network", REMEDY), torch.no_grad():
        features, logits = run(torch.zeros(1, 3, size, size, device=device))
    names = tuple(str(network.config.id2label[i]) for i in range(logits.shape[1])) if classifies else None
    return Extractor(kind, features.shape[1], _weights_sha256(folder), f"{mode} antialias {size}", names, device, run)


def transformers_library(needs: str) -> Any:
    """Return the library, quiet. Raises ConfigError where it is not installed.

    needs: what does, as a sentence begins.
    """
    try:
        import transformers
    except ModuleNotFoundError:
        raise ConfigError(f"{needs} the library transformers", "pip install transformers") from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def described_network(folder: Path, remedy: str) -> dict[str, Any]:
    """Read a folder's config.json.

    Raises DataError where it is missing, names code of its own, or has no safetensors beside it.
    """
    described = read_json(folder / CONFIG, remedy)
    if "auto_map" in described:
        raise DataError(
            f"{folder / CONFIG} names code of its own, which is never run", "give a model without such code"
        )
    if not (folder / f"{WEIGHTS}.index.json").is_file():
        require_file(folder / WEIGHTS, remedy)
    return described


def load_network(folder: Path, loader: Any, what: str, remedy: str) -> tuple[Any, bool]:
    """Load a network, float32, to be evaluated, and whether its folder has the weights of a pooler, where it has one.

    what: it is to be, in words. Raises DataError where other weights are missing, or of other shapes.
    """
    with as_data_error(f"{folder} holds no {what} that transformers can load", remedy):
        network, info = loader.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    missing = [name for name in info["missing_keys"] if "pooler" not in name]
    if missing or info["mismatched_keys"]:
        raise DataError(f"{folder / WEIGHTS} lacks {(missing or [str(info['mismatched_keys'])])[0]}", remedy)
    return network.eval().requires_grad_(False).to(torch.float32), not info["missing_keys"]


def _weights_sha256(folder: Path) -> str:
    """Return the sha256 of a network's weights; one of all files where they are in several."""
    if (folder / WEIGHTS).is_file():
        return sha256_file(folder / WEIGHTS)
    return sha256_files(sorted(folder.glob("*.safetensors")))


def _preparation(path: Path) -> tuple[int, list[float], list[float], str]:
    """Return the size in pixels, mean and deviation of RGB in [0, 1], and the interpolation."""
    prepared = read_json(path, REMEDY)
    with as_data_error(f"{path} is not of an image network", REMEDY):
        given = prepared["crop_size"] if prepared.get("do_center_crop") else prepared["size"]
        if isinstance(given, dict):
            given = given.get("height", given.get("shortest_edge"))
        mean, std = ([float(value) for value in prepared[name]] for name in ("image_mean", "image_std"))
        if not (1 <= int(given) <= 4096 and len(mean) == len(std) == 3 and all(value > 0 for value in std)):
            raise ValueError(f"size {given}, mean {mean}, std {std}")
        return int(given), mean, std, "bicubic" if prepared.get("resample", 2) == _BICUBIC else "bilinear"


def _head_input(network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a classifier's head reads, (B, D), and its logits (B, K)."""
    read: list[Tensor] = []
    hook = network.get_submodule("classifier").register_forward_pre_hook(lambda _, given: read.append(given[0]))
    try:
        logits: Tensor = network(pixel_values=pixels).logits
    finally:
        hook.remove()
    return read[0].flatten(1), logits


def _pooled(output: Any, pooled: bool) -> Tensor:
    """Return features (B, D): the embedding, the pooled output where its weights are there, or the class token."""
    embedding: Tensor | None = getattr(output, "image_embeds", None)
    if embedding is None and pooled:
        embedding = getattr(output, "pooler_output", None)
    if embedding is None:
        embedding = output.last_hidden_state[:, 0]
    return embedding.flatten(1)
