"""Latents at random out of shards: held on the device, mapped into memory, or streamed from the disk.

Whichever it is, a batch is the same to the bit: only its samples and positions decide what is in it.

"held": one tensor for each field on the device, filled once. "mapped": the shards are mapped, their pages shared with
other processes and given back by the system when it needs memory. "streamed": only a bounded number of
files stays open; each array is read when it is asked for, so that sets may be larger than the memory.

Shards that were not compared with the manifest's sha256, which means reading all of them, have every array compared
with its CRC-32 as it is read.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from ..conditioning.conditioning import Conditioning, NoConditioning
from ..conditioning.labels import LABELS
from ..diffusion.conditions import Cond
from ..errors import DataError, as_data_error
from ..images.crops import mirrored_conditions
from ..images.order import mirrored
from ..images.weights import flipped, loss_weights
from ..system.machine import available_memory
from .dataset import VALIDATION_SEED, draw
from .fields import CROPS, FLIP, LABEL, LATENT, MASK, STD, TOKENS, Field, is_of_view, view_prefixes
from .index import INDEX, read_index
from .readers import FieldTable, Held, MappedFiles, Reader, StreamedFiles

Reading = Literal["held", "mapped", "streamed"]


class ShardedLatents:
    """One split of a folder of shards, read at random through its index: a `LatentDataset`.

    shape: (C, h, w). fields: as the manifest lists them; None for folders of which it lists none. device: where batches
    are; that of `reading="held"` only, else the CPU. trusted: the shards were compared with the manifest. conditioning:
    what samples are conditioned on, which may be less than the shards hold.

    Raises DataError for an index that does not fit its shards, and for a damaged array when it is read.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        names: Sequence[str],
        shape: tuple[int, int, int],
        reading: Reading = "mapped",
        device: torch.device | None = None,
        trusted: bool = False,
        fields: Mapping[str, Field] | None = None,
        conditioning: Conditioning | None = None,
    ) -> None:
        self.shape = shape
        self.conditioning: Conditioning = conditioning or NoConditioning()
        self.labels: np.ndarray | None
        self.labels, tables = read_tables(folder, split, names, shape, fields)
        self._count = len(tables[LATENT].shard)
        self.fields = {name: table.form for name, table in tables.items()}
        self.fields |= {FLIP + name: table.form for name, table in tables.items() if table.mirrored}
        if self.labels is not None:
            self.fields[LABEL] = Field("int64")
        paths = tables[LATENT].paths
        files = StreamedFiles(paths) if reading == "streamed" else MappedFiles(paths)
        self._readers: dict[str, Reader | Held] = {}
        for name, table in tables.items():
            known = replace(table, checksums=None) if trusted else table
            # The conditions of crops stay on the CPU, where they are mirrored: only those of a batch go to the device.
            held = reading == "held" and table.form.num_bytes is not None and name != CROPS
            device = device or torch.device("cpu")
            self._readers[name] = Held(known, device) if held else Reader(known, files)

    def __len__(self) -> int:
        return self._count

    @property
    def num_crops(self) -> int:
        """How many crops of each image were encoded."""
        return int(self.fields[CROPS].shape[0] or 0) if CROPS in self.fields else 0

    def batch(
        self, samples: np.ndarray, positions: np.ndarray, seed: int, flips: bool = True, purpose: str = "posterior"
    ) -> Tensor:
        """Return latents, float32 (B, C, h, w); see `LatentDataset`."""
        flip = mirrored(positions, seed) if flips and FLIP + LATENT in self.fields else None
        return self._drawn(samples, positions, seed, purpose, flip)

    def cropped(
        self, samples: np.ndarray, positions: np.ndarray, seed: int, crops: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Return latents, some of crops, and the conditions of these; see `CroppedDataset`."""
        flip = mirrored(positions, seed) if FLIP + LATENT in self.fields else None
        whole = np.zeros((len(samples), 1, 3), np.float32)
        conditions = np.concatenate([whole, self.array(CROPS, samples).numpy()], axis=1)
        seen = conditions[np.arange(len(samples)), crops]
        seen = seen if flip is None else mirrored_conditions(seen, flip)
        return self._drawn(samples, positions, seed, "posterior", flip, crops), torch.from_numpy(seen)

    def weights(self, samples: np.ndarray, positions: np.ndarray, seed: int, flips: bool = True) -> Tensor:
        """Return those of the masks; see `MaskedDataset`."""
        masks = self.array(MASK, samples)[:, None].float()
        mirror = flips and FLIP + LATENT in self.fields
        return loss_weights(flipped(masks, mirrored(positions, seed)) if mirror else masks)

    def tokens(self, samples: np.ndarray, positions: np.ndarray, seed: int, flips: bool = True) -> Tensor:
        """Return tokens, int64 (B, L); see `TokenDataset`."""
        flip = mirrored(positions, seed) if flips and FLIP + TOKENS in self.fields else None
        return self.array(TOKENS, samples, flip).long()

    def cond(self, samples: np.ndarray, positions: np.ndarray, seed: int = VALIDATION_SEED) -> Cond:
        """Return the labels, where they are part of the condition, and what it reads of other fields."""
        cond: Cond = {}
        if self.labels is not None and LABELS in self.conditioning.fields:
            cond[LABELS] = torch.from_numpy(self.labels[samples])
        return cond | self.conditioning.read(lambda name: self.arrays(name, samples), positions, seed)

    def conditioned(self, conditioning: Conditioning) -> Self:
        """Return the same samples, whose conditions this conditioning reads, which needs no other fields."""
        other = copy(self)
        other.conditioning = conditioning
        return other

    def array(
        self, name: str, samples: np.ndarray, flip: np.ndarray | None = None, crops: np.ndarray | None = None
    ) -> Tensor:
        """Gather a field of one size, (B, *its shape), in its dtype.

        flip: bool (B,), which samples are mirrored. crops: int64 (B,), which crop, or 0.
        """
        shape: tuple[int, ...] = self.fields[name].shape  # type: ignore[assignment]
        return self._readers[name].take(self._rows(name, samples, flip, crops), samples).view(-1, *shape)

    def arrays(self, name: str, samples: np.ndarray) -> list[np.ndarray]:
        """Return a field of each sample, as it was written, whatever its form."""
        if self.fields[name].num_bytes is not None:
            return list(self.array(name, samples).cpu().numpy())
        form = self.fields[name]
        parts = self._pieces(name, samples)
        return [np.frombuffer(part, form.dtype).reshape(-1, *form.shape[1:]) for part in parts]

    def texts(self, name: str, samples: np.ndarray) -> list[str]:
        """Gather a field of text."""
        return [bytes(piece).decode() for piece in self._pieces(name, samples)]

    def _drawn(
        self,
        samples: np.ndarray,
        positions: np.ndarray,
        seed: int,
        purpose: str,
        flip: np.ndarray | None,
        crops: np.ndarray | None = None,
    ) -> Tensor:
        mean = self.array(LATENT, samples, flip, crops).float()
        std = self.array(STD, samples, flip, crops).float() if STD in self.fields else None
        return draw(mean, std, positions, seed, purpose)

    def _pieces(self, name: str, samples: np.ndarray) -> Sequence[bytes | memoryview]:
        reader = self._readers[name]
        assert isinstance(reader, Reader), f"all of {name} are of one size"
        return reader.pieces(self._rows(name, samples), samples)

    def _rows(
        self, name: str, samples: np.ndarray, flip: np.ndarray | None = None, crops: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the rows of samples in a field's table; see `view_prefixes`."""
        assert flip is None or FLIP + name in self.fields, f"no {name} of mirrored images"
        rows = np.zeros(len(samples), dtype=np.int64)
        if crops is not None:
            rows += crops * (2 if FLIP + name in self.fields else 1)
        return rows if flip is None else rows + flip


def best_reading(shard_bytes: int, field_bytes: int, device: torch.device) -> Reading:
    """Choose how to read sets of so many bytes, of which so many are fields.

    On a GPU they are held if they fit in a third of its free memory, since networks need the rest; else they are
    mapped if they fit in half of the memory that is available, and streamed if not.
    """
    if device.type == "cuda" and field_bytes <= torch.cuda.mem_get_info(device)[0] // 3:
        return "held"
    return "mapped" if shard_bytes <= available_memory() // 2 else "streamed"


def read_tables(
    folder: Path,
    split: str,
    names: Sequence[str],
    shape: tuple[int, int, int],
    fields: Mapping[str, Field] | None = None,
) -> tuple[np.ndarray | None, dict[str, FieldTable]]:
    """Return a split's labels, int64 (N,) or None, and where its fields lie, those of all views together.

    fields: as the manifest lists them; by default those of latents that the index has. Raises DataError for an index
    that is damaged, lacks the split, or points out of its shards.
    """
    index = read_index(folder)
    if not {f"{split}.shard", f"{split}.{LATENT}"} <= index.keys():
        raise DataError(f"{folder / INDEX} lists no {split!r} samples")
    shard, labels = index[f"{split}.shard"], index.get(f"{split}.label")
    paths = [folder / name for name in names]
    listed = {LATENT: Field("float16", shape), STD: Field("float16", shape)} if fields is None else fields
    crops = int(listed[CROPS].shape[0] or 0) if CROPS in listed and f"{split}.{CROPS}" in index else 0
    tables: dict[str, FieldTable] = {}
    with as_data_error(f"{folder / INDEX} does not fit its shards"):
        sizes_of_files = np.array([path.stat().st_size for path in paths], dtype=np.int64)
        _require(bool(np.all((shard >= 0) & (shard < len(paths)))) and bool(np.all(np.diff(shard) >= 0)), "shard")
        unlabelled = labels is None and fields is not None and LABEL not in fields
        _require(unlabelled or (labels is not None and labels.shape == shard.shape), LABEL)
        for name, form in listed.items():
            spelled = [each for prefix in view_prefixes(crops) if (each := f"{split}.{prefix}{name}") in index]
            if name == LABEL or is_of_view(name) or (not spelled and (fields is None or name == CROPS)):
                continue
            mirrored_too = f"{split}.{FLIP}{name}" in index
            offsets = np.stack([index[each] for each in spelled])
            sums = np.stack([index[f"{each}.crc32"] for each in spelled]) if f"{spelled[0]}.crc32" in index else None
            sizes = np.stack([index[f"{each}.size"] for each in spelled]) if f"{spelled[0]}.size" in index else None
            _require(spelled[0] == f"{split}.{name}" and (sizes is None) == (form.num_bytes is not None), name)
            _require(all(each is None or each.shape[1:] == shard.shape for each in (offsets, sums, sizes)), name)
            bytes_each = sizes if form.num_bytes is None else form.num_bytes
            tables[name] = FieldTable(form, paths, shard, offsets, bytes_each, sums, mirrored_too)  # type: ignore[arg-type]
            _require(_lies_inside(tables[name], sizes_of_files), name)
        views = (1 + crops) * (1 + tables[LATENT].mirrored)
        _require(all(len(tables[name].offsets) == views for name in (LATENT, STD) if name in tables), LATENT)
    return labels, tables


def _require(fits: bool, name: str) -> None:
    if not fits:
        raise ValueError(name)


def _lies_inside(table: FieldTable, sizes_of_files: np.ndarray) -> bool:
    """Return whether every sample lies inside of its shard, and is a whole number of rows long where lengths differ."""
    ends = sizes_of_files[table.shard] - table.sizes
    whole = bool(np.all((table.offsets >= BLOCKSIZE) & (table.offsets <= ends)))
    if isinstance(table.sizes, np.ndarray):
        row = int(np.prod(table.form.shape[1:], dtype=np.int64)) * table.dtype.itemsize  # type: ignore[arg-type]
        whole = whole and bool(np.all((table.sizes >= 0) & (table.sizes % row == 0)))
    return whole
