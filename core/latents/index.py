"""The index of a folder of shards, which makes them fast to read at random: where every field of every sample lies.

`index.safetensors` holds the byte offset and the CRC-32 of every field, and its size in bytes where sizes differ.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from .. import files
from ..errors import DataError, as_data_error
from .fields import LABEL, LATENT, Field, merge
from .shards import Shard, load_shard

INDEX = "index.safetensors"
_CHECKSUM, _SIZE = "crc32", "size"


def write_index(folder: Path, shards: Mapping[str, Sequence[Shard]]) -> dict[str, Field]:
    """Write the index over shards: split → its shards' contents, in order. Returns the fields of all, for the manifest.

    Its arrays: SPLIT.shard, SPLIT.label, and of each field SPLIT.FIELD, the offsets, SPLIT.FIELD.crc32, and
    SPLIT.FIELD.size where sizes differ.
    """
    tensors = _index_of(shards)
    files.write_atomically(folder / INDEX, lambda temporary: save_file(tensors, temporary))
    return _fields_of(shards)


def check_index(
    folder: Path, names: Mapping[str, Sequence[str]], fields: Mapping[str, Field] | None = None
) -> dict[str, np.ndarray]:
    """Return each split's labels, int64 (−1 where there are none), after comparing all shards with the index.

    fields: as the manifest lists them, if it does. Raises DataError naming the shard as `load_shard` does, the index
    that differs, or the folder whose fields are of other forms.
    """
    index, shards = read_index(folder), dict[str, list[Shard]]()
    for split, listed in names.items():
        shards[split] = []
        for name in listed:
            shards[split].append(load_shard(folder / name, sum(map(len, shards[split])))[0])
    found = _index_of(shards)
    if not any(key.endswith(_CHECKSUM) for key in index):  # Older folders have no checksums.
        found = {key: values for key, values in found.items() if not key.endswith(_CHECKSUM)}
    if index.keys() != found.keys() or any(not np.array_equal(index[key], found[key]) for key in found):
        raise DataError(f"{folder / INDEX} is not the index of the shards beside it")
    if fields is not None and dict(fields) != _fields_of(shards):
        raise DataError(f"{folder} holds other fields than its manifest says")
    unlabelled = {split: np.full(sum(map(len, shards[split])), -1) for split in names}
    return {split: found.get(f"{split}.label", unlabelled[split]) for split in names}


def read_index(folder: Path) -> dict[str, np.ndarray]:
    """Read an index as `write_index` wrote it. Raises DataError where it cannot be read."""
    with as_data_error(f"{folder / INDEX} cannot be read"):
        index: dict[str, np.ndarray] = load_file(folder / INDEX)
    for name, array in index.items():
        if array.dtype != (np.uint32 if name.endswith(_CHECKSUM) else np.int64) or array.ndim != 1:
            raise DataError(f"{folder / INDEX} is damaged: {name} is {array.dtype} of shape {array.shape}")
    return index


def _fields_of(shards: Mapping[str, Sequence[Shard]]) -> dict[str, Field]:
    """Return the forms of all fields, the label's included."""
    parts = [part for each in shards.values() for part in each if len(part)]
    with as_data_error("the shards hold fields of different forms"):
        forms = merge(part.forms for part in parts)
    labelled = bool(parts) and all(part.labels is not None for part in parts)
    return {**forms, LABEL: Field("int64")} if labelled else forms


def _index_of(shards: Mapping[str, Sequence[Shard]]) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    fields = _fields_of(shards)
    for split, parts in shards.items():
        names = list(parts[0].offsets) if parts else [LATENT]
        for part in parts:
            if list(part.offsets) != names or (part.labels is None) != (parts[0].labels is None):
                raise DataError(f"{part.name} holds other fields than {parts[0].name}")

        def joined(arrays: Iterable[np.ndarray | None], dtype: type = np.int64) -> np.ndarray:
            return np.concatenate([np.empty(0, dtype), *(each for each in arrays if each is not None)])

        tensors[f"{split}.shard"] = joined(np.full(len(part), number) for number, part in enumerate(parts))
        if not parts or parts[0].labels is not None:
            tensors[f"{split}.label"] = joined(part.labels for part in parts)
        for name in names:
            tensors[f"{split}.{name}"] = joined(part.offsets[name] for part in parts)
            tensors[f"{split}.{name}.{_CHECKSUM}"] = joined((part.checksums[name] for part in parts), np.uint32)
            if name in fields and fields[name].num_bytes is None:
                tensors[f"{split}.{name}.{_SIZE}"] = joined(part.sizes[name] for part in parts)
    return tensors
