"""Safetensors files written a tensor at a time, and read by rows: neither needs memory for the whole file.

The bytes are those that the safetensors package writes for the same tensors.
"""

import json
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

# The format's names of dtypes, in the order in which the package writes them: aligned, and by name within one.
_DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def in_order(like: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors in the order of their file."""
    order = list(_DTYPES)
    return sorted(like, key=lambda name: (order.index(like[name].dtype), name))


def write(path: Path, like: Mapping[str, Tensor], read: Callable[[str], Tensor]) -> None:
    """Write a safetensors file of the tensors that `read` returns by name, called once for each, `in_order`.

    like: tensors of their dtypes and shapes, such as on the meta device. One tensor at a time is in memory.
    """
    header: dict[str, dict[str, object]] = {}
    start = 0
    for name in in_order(like):
        stop = start + like[name].nbytes
        dtype, shape = _DTYPES[like[name].dtype], list(like[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in header:
            tensor = read(name)
            assert (tensor.dtype, tensor.shape) == (like[name].dtype, like[name].shape), f"{name} is {tensor.shape}"
            file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def read_rows(path: Path, rows: Callable[[str, tuple[int, ...]], slice | None]) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, on the CPU, or only some rows of them. Raises SafetensorError.

    rows: of a tensor's name and shape, the slice of rows to read; None for all of it.
    """
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
