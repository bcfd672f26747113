"""Safetensors files written a tensor at a time, and read by rows: neither needs memory for the whole file.

The bytes are those that the safetensors package writes for the same tensors.
"""

import json
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
# The package puts formats in this order, so that all are aligned, and within one sorts by name.
_ORDER = ["I64", "F64", "F32", "I32", "BF16", "F16", "I16", "I8", "U8", "BOOL"]


@dataclass(frozen=True)
class Spec:
    """What a tensor in a file is, but for its numbers."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its numbers."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def spec(tensor: Tensor) -> Spec:
    """Return what a tensor is."""
    return Spec(tensor.dtype, tuple(tensor.shape))


def in_order(specs: Mapping[str, Spec]) -> list[str]:
    """Return the names of tensors as they follow each other in their file."""
    return sorted(specs, key=lambda name: (_ORDER.index(_NAMES[specs[name].dtype]), name))


def write(path: Path, specs: Mapping[str, Spec], read: Callable[[str], Tensor]) -> None:
    """Write a safetensors file of tensors that `read` gives by name, each once, `in_order`, of which one is held."""
    names = in_order(specs)
    header: dict[str, dict[str, object]] = {}
    start = 0
    for name in names:
        stop = start + specs[name].num_bytes
        header[name] = {
            "dtype": _NAMES[specs[name].dtype],
            "shape": list(specs[name].shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            tensor = read(name)
            assert spec(tensor) == specs[name], f"{name} is {spec(tensor)}, not {specs[name]}"
            file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def read_rows(path: Path, rows: Callable[[str, tuple[int, ...]], slice | None]) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, on the CPU: of each the rows that `rows` says of its name and shape, or
    all of it where that says None. Raises SafetensorError for a file that is none."""
    tensors = {}
    with safe_open(path, "pt") as file:
        names: Iterable[str] = file.keys()
        for name in names:
            piece = file.get_slice(name)
            shape = tuple(piece.get_shape())
            cut = rows(name, shape)
            if cut is None:
                tensors[name] = file.get_tensor(name)
            elif cut.start < cut.stop:
                tensors[name] = piece[cut]
            else:
                tensors[name] = torch.empty(0, *shape[1:])
    return tensors
