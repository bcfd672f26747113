"""Networks on disk: weights files, published or our own, and our folders of a network.

Such a folder holds `model.safetensors`, and `config.json` with its format, the network's kind and configuration, the
sha256 of the weights, and what else its family keeps there. Whatever is missing, damaged or of another kind is a
DataError naming the file.
"""

import argparse
import pickle
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..distributed import processes
from ..distributed.sharded_tensors import gathered_by_main, sharded_tensors
from ..errors import ConfigError, DataError, as_data_error
from ..files import read_json, sha256_file, write_atomically, write_json
from ..settings.families import Families, NetworkConfig
from ..settings.families import kind_of as family_of_config
from .commands import MANIFEST, kind_of, mending, recorded
from .roles import role_of

FORMAT = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_SHARED = 2  # how often a file's bytes may serve, as in tied weights
_STATES = ("ema", "model", "state_dict")  # of training checkpoints, by their authors' names


def save_network(network: nn.Module, folder: Path, kind: str, config: Mapping[str, Any], **beside: Any) -> list[str]:
    """Write a network's folder, each file whole or not at all, the configuration last. Returns the files' names.

    config: from which its family rebuilds it; beside: what else `config.json` keeps. Both JSON. For a network that is
    sharded, all processes have to call it; the main one writes.
    """
    tensors, is_main = sharded_tensors(network.state_dict()), processes.world().is_main
    with gathered_by_main([tensors]):
        if is_main:
            folder.mkdir(exist_ok=True)
            write_atomically(folder / WEIGHTS, tensors.write)
    if is_main:
        digest = sha256_file(folder / WEIGHTS)
        write_json(folder / CONFIG, description(kind, config, weights_sha256=digest, **beside))
    return [CONFIG, WEIGHTS]


def save_of_family(
    network: nn.Module, folder: Path, families: Families, extra: Mapping[str, Any] | None = None
) -> None:
    """Write the folder of a network with a `config` of one of the families; `extra` is stored in config.json, too."""
    config: Any = network.config
    save_network(network, folder, family_of_config(config, families), config.model_dump(mode="json"), **(extra or {}))


def config_of_family(described: Mapping[str, Any], folder: Path, families: Families, remedy: str) -> NetworkConfig:
    """Return the config that a network's `config.json` holds. Raises DataError where it is not one of its family."""
    try:
        return families[described["kind"]].config.from_json(described["config"])
    except ConfigError as error:
        raise DataError(f"{folder / CONFIG}: {error.message}", error.remedy or remedy) from None


def description(kind: str, config: Mapping[str, Any], **beside: Any) -> dict[str, Any]:
    """Return what `config.json` says of a network, JSON; arguments as of `save_network`."""
    return {"format": FORMAT, "kind": kind, "config": dict(config)} | beside


def read_description(folder: Path, kinds: Collection[str], remedy: str) -> dict[str, Any]:
    """Read the `config.json` of a network of one of these kinds; its `config` is a JSON object."""
    path, remedy = folder / CONFIG, remedy_for(folder, remedy)
    _require_listed(path, remedy)
    described = read_json(path, remedy)
    if described.get("format", FORMAT) != FORMAT:
        raise DataError(f"{path} has format {described['format']!r}; this ldm reads {FORMAT}", "upgrade ldm")
    kind, config = described.get("kind"), described.get("config")
    if not isinstance(kind, str) or kind not in kinds:
        raise DataError(f"{path} describes a network of kind {kind!r}, not {' or '.join(kinds)}", remedy)
    if not isinstance(config, dict):
        raise DataError(f"{path} is damaged: its config is {config!r}", remedy)
    return described


def remedy_for(folder: Path, otherwise: str) -> str:
    """Return what mends a network's folder: the command of the stage that it lies in, if it lies in one."""
    kind = kind_of(folder.parent)
    return mending(folder.parent, role_of(kind)) if kind == folder.parent.name else otherwise


def _require_listed(path: Path, remedy: str) -> None:
    """Raise DataError where the manifest of the stage that a network's description lies in has another sha256 of it."""
    manifest = next(recorded(path.parent.parent), {})
    table = manifest.get("files")
    entry = table.get(f"{path.parent.name}/{path.name}") if isinstance(table, dict) else None
    if isinstance(entry, dict) and path.is_file() and entry.get("sha256") != sha256_file(path):
        raise DataError(f"{path} is damaged: its sha256 differs from {path.parent.parent / MANIFEST}", remedy)


def read_weights(folder: Path, described: Mapping[str, Any], remedy: str) -> dict[str, Tensor]:
    """Read the tensors of a network's folder, and compare their file with the sha256 in its description."""
    tensors = read_safetensors(folder / WEIGHTS, remedy_for(folder, remedy))
    check_network(folder, described, remedy)
    return tensors


def check_network(folder: Path, described: Mapping[str, Any], remedy: str = "") -> None:
    """Compare a network's weights with its description, and that with the stage it is of. Raises DataError."""
    remedy = remedy_for(folder, remedy)
    _require_listed(folder / CONFIG, remedy)
    digest = described.get("weights_sha256")  # Older folders lack it.
    if digest is not None and digest != sha256_file(folder / WEIGHTS):
        raise DataError(f"{folder / WEIGHTS} is damaged: its sha256 differs from {folder / CONFIG}", remedy)


def require_blocks(tensors: Collection[str], blocks: int | None, folder: Path, remedy: str) -> None:
    """Refuse weights with another number of blocks than their config before thousands of them are built."""
    there = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    if blocks not in (None, len(there)):
        raise DataError(f"{folder / WEIGHTS} does not fit {CONFIG}: it has {len(there)} blocks, not {blocks}", remedy)


@contextmanager
def without_draws(device: str = "meta") -> Iterator[None]:
    """Let networks be built on a device without drawing weights; on the meta device nothing is allocated."""
    with torch.device(device), _NoNormalDraws():
        yield


class _NoNormalDraws(TorchFunctionMode):
    """Skips normal initialisation, which on the meta device would import sympy for two seconds to do nothing."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if func is nn.init.normal_ else func(*args, **kwargs)


def read_safetensors(path: Path, remedy: str | None) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file, on the CPU."""
    require_file(path, remedy)
    with as_data_error(f"{path} is not a readable safetensors file", remedy):
        return load_file(path)


def read_state_dict(path: Path, remedy: str) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, or of a `.pt`, `.pth` or `.bin` file: a state dict, or a training
    checkpoint with one, the averaged one first.

    Nothing in the file is run: tensors, numbers, text and plain namespaces are read. Raises DataError naming the file
    for one that holds anything else, or no state dict.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path, remedy)
    require_file(path, remedy)
    torch.serialization.add_safe_globals([argparse.Namespace])
    damaged = f"{path} holds something other than weights, or is damaged"
    with as_data_error(damaged, remedy):
        if zipped := zipfile.is_zipfile(path):
            _check_sizes(path)
        try:
            # Mapped, so that an optimizer's state beside the weights is never read.
            content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except pickle.UnpicklingError:  # torch's own words advise to run what is in the file.
            raise DataError(f"{damaged}: only tensors, numbers and text are read", remedy) from None
    for name in _STATES:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise DataError(f"{path} holds no state dict", remedy)
    for name, tensor in content.items():
        if tensor.is_quantized or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise DataError(f"{path}: {str(name)[:80]} is not a plain tensor (quantised, sparse or empty)", remedy)
    if sum(tensor.nbytes for tensor in content.values()) > _SHARED * path.stat().st_size:
        raise DataError(f"{path}: its tensors have more numbers than the file", remedy)
    return {str(name): tensor for name, tensor in content.items()}


def _check_sizes(path: Path) -> None:
    """Refuse an archive with a member that declares more bytes than the file has: torch would allocate them all.

    torch stores members uncompressed, so that no valid one does. Raises BadZipFile.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.file_size > path.stat().st_size:
                raise zipfile.BadZipFile(f"{member.filename} would have {member.file_size:,} bytes")


def read_known_pth(path: Path, sha256: str, remedy: str) -> dict[str, Tensor]:
    """Read the state dict of one published `.pth` file: its sha256 is compared before any of it is unpickled.

    Only tensors are unpickled (`weights_only`).
    """
    require_sha256(path, sha256, remedy)
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def require_file(path: Path, remedy: str | None) -> None:
    """Raise DataError naming `path` unless it is a file."""
    if not path.is_file():
        raise DataError(f"{path} does not exist" if not path.exists() else f"{path} is not a file", remedy)


def require_sha256(path: Path, sha256: str, remedy: str) -> None:
    """Raise DataError naming `path` and both hashes unless it is the file with that sha256 (hex)."""
    require_file(path, remedy)
    seen = sha256_file(path)
    if seen != sha256:
        raise DataError(f"{path} is damaged or another file: its sha256 is {seen}, not {sha256}", remedy)


def require_fit(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, remedy: str) -> None:
    """Raise DataError naming `path` and the first tensor unless names and shapes are exactly the network's."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    seen = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    differing = sorted(name for name in expected.keys() | seen.keys() if expected.get(name) != seen.get(name))
    if differing:
        name = differing[0]
        raise DataError(
            f"{path} does not fit the network: {name} has shape {seen.get(name)}, expected {expected.get(name)}"
            f" ({len(differing)} differ)",
            remedy,
        )


def load_into(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, remedy: str, assign: bool = False) -> None:
    """Load tensors, as float32, into a network that they must fit exactly.

    assign: replace its own tensors, which then need no memory (`meta`), rather than copy into them.
    """
    require_fit(network, tensors, path, remedy)
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=assign)
