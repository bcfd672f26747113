"""Reading weights files: a named error for one that is missing, damaged or of another kind."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import DataError
from .files import sha256_file


def read_safetensors(path: Path, remedy: str) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file, on the CPU. Raises DataError naming the file."""
    require_file(path, remedy)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path} is not a readable safetensors file: {error}", remedy) from None


def read_known_pth(path: Path, sha256: str, remedy: str) -> dict[str, Tensor]:
    """Read the state dict of one published `.pth` file: its sha256 is compared before any of it is unpickled.

    Only tensors are unpickled (`weights_only`). Raises DataError naming the file and the hash seen.
    """
    require_sha256(path, sha256, remedy)
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def require_file(path: Path, remedy: str) -> None:
    """Raise DataError naming `path` unless it is a file."""
    if not path.is_file():
        raise DataError(f"{path} does not exist" if not path.exists() else f"{path} is not a file", remedy)


def require_sha256(path: Path, sha256: str, remedy: str) -> None:
    """Raise DataError naming `path` and both hashes unless it is the file with that sha256 (hex)."""
    require_file(path, remedy)
    seen = sha256_file(path)
    if seen != sha256:
        raise DataError(f"{path} is damaged or another file: its sha256 is {seen}, not {sha256}", remedy)


def load_into(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, remedy: str) -> None:
    """Load tensors, as float32, into a network; DataError naming the file unless names and shapes agree exactly."""
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
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
