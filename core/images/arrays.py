"""Images kept as arrays: MNIST's idx files and numpy's .npz. Headers are checked before anything is allocated."""

import gzip
import math
import re
import struct
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import DataError, as_data_error
from ..files import open_plain
from .archive import DEFLATE_LIMIT, unpack
from .budget import MEMORY
from .dataset import ImageSource, image_source
from .listing import Parts
from .npy import parse
from .parts import one_of_each, part_named
from .rows import Rows, npz_rows, unpacked_rows

_FREE_IMAGES, _LEAST_STORED = 100_000, 4  # of more images, each takes as many bytes at least where it is kept
_MOST_NAMES = 1_000_000
_PICTURE = 8  # bytes a pixel that a picture takes beside its row
_SAVE_AGAIN = "write it again with numpy.savez"
# Under which names images and labels are found in an .npz, by part: ours and ADM's, MedMNIST's, Keras's.
_NPZ_NAMES = {
    "all": [("images", "labels"), ("arr_0", "arr_1"), ("data", "labels"), ("x", "y")],
    "train": [("train_images", "train_labels"), ("x_train", "y_train")],
    "val": [("val_images", "val_labels"), ("x_val", "y_val")],
    "test": [("test_images", "test_labels"), ("x_test", "y_test")],
}


def idx_pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Find pairs of idx files in a folder, by part: train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz …

    What follows the last hyphen says which part: emnist-digits-test-images… is "test". Of a file and its .gz the latter
    is taken. Raises DataError naming two pairs of one part.
    """
    pairs: dict[str, tuple[Path, Path]] = {}
    for images in sorted(folder.glob("*images*idx[34]-ubyte*")):
        labels = _labels_beside(images)
        prefix = images.name.split("images")[0].rstrip("-_.")
        if images.name.endswith(("ubyte", "ubyte.gz")) and labels.exists():
            pairs[prefix] = (images, labels)
    named = []
    for prefix in pairs:
        known = {"t10k": ("test", ""), "": ("all", "")}.get(re.split("[-_.]", prefix)[-1]) or part_named(prefix)
        named.append((known[0] if known else prefix, prefix))
    return {part: pairs[prefix] for part, prefix in one_of_each(str(folder), "pairs of idx files", named).items()}


def _labels_beside(images: Path) -> Path:
    name = images.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    other = name.removesuffix(".gz") if name.endswith(".gz") else f"{name}.gz"
    return images.with_name(name) if images.with_name(name).exists() else images.with_name(other)


def parts_of_idx(path: Path, location: str) -> Parts:
    """Open the idx pairs of a folder, or the one whose images file is given."""
    pairs = idx_pairs(path) if path.is_dir() else {"all": (path, _labels_beside(path))}
    if len(pairs) == 1:
        pairs = {"all": next(iter(pairs.values()))}
    return {part: partial(_open_idx, *pair, location) for part, pair in pairs.items()}


def _open_idx(images_path: Path, labels_path: Path, location: str) -> ImageSource:
    images, labels = read_idx(images_path), read_idx(labels_path)
    MEMORY.take(math.prod(labels.shape), labels.stored, str(labels_path))
    return _from_arrays(location, images, labels.read(0, len(labels)), str(images_path))


def read_idx(path: Path) -> Rows:
    """Open an idx file of bytes (LeCun's format, plain or gzipped), uint8 of the shape in its header.

    Raises DataError naming the file when it is damaged, longer or shorter than its header says, or of another type.
    """
    with as_data_error(f"{path} cannot be read", "copy it again"), open_plain(path) as plain:
        stored = path.stat().st_size
        file = gzip.GzipFile(fileobj=plain) if path.suffix == ".gz" else plain
        zeros, kind, rank = struct.unpack(">HBB", file.read(4))
        if zeros or kind != 8 or not 1 <= rank <= 4:
            raise DataError(f"{path} is not an idx file of bytes", "give one that begins with the bytes 0, 0 and 8")
        shape = struct.unpack(f">{rank}I", file.read(4 * rank))
        if math.prod(shape) > stored * (DEFLATE_LIMIT if path.suffix == ".gz" else 1):
            raise DataError(f"{path} holds less than the {shape} of its header", "copy it again")
        return unpacked_rows(file, shape, np.dtype(np.uint8), stored, str(path))


def parts_of_npz(path: Path, location: str) -> Parts:
    """Open a numpy .npz with images and labels, by the names that are usual for them."""
    with as_data_error(f"{location} is not an .npz that can be read", _SAVE_AGAIN), zipfile.ZipFile(path) as archive:
        held = {name.removesuffix(".npy") for name in archive.namelist()}
    parts: Parts = {}
    for part, choices in _NPZ_NAMES.items():
        for images_name, labels_name in choices:
            if images_name in held and part not in parts:
                labels = labels_name if labels_name in held else None
                names = next((name for name in ("class_names", "label_names") if name in held), None)
                parts[part] = partial(_open_npz, path, location, images_name, labels, names)
    if not parts:
        message = f"{location} holds {', '.join(sorted(held)[:8]) or 'nothing'}, no images"
        raise DataError(message, "name the arrays images and labels")
    if "train" in parts:
        parts.pop("all", None)
    return parts if len(parts) > 1 else {"all": next(iter(parts.values()))}


def _open_npz(path: Path, location: str, images: str, labels: str | None, names: str | None) -> ImageSource:
    with as_data_error(f"{path}: {images} cannot be read", _SAVE_AGAIN), zipfile.ZipFile(path) as archive:
        pixels = npz_rows(archive, archive.getinfo(f"{images}.npy"), f"{path}: {images}")
    pixels = as_bytes(pixels, f"{location}: {images}")
    class_names = None
    if names is not None:
        read = read_npz(path, names).ravel()
        if read.size > _MOST_NAMES:
            raise DataError(f"{location}: {names} holds {read.size:,} names", "give one for each class")
        class_names = [str(name) for name in read]
    return _from_arrays(location, pixels, None if labels is None else read_npz(path, labels), images, class_names)


def read_npz(path: Path, name: str) -> np.ndarray:
    """Read one array of an .npz; DataError naming it for what is damaged or claims too much, and for Python objects."""
    with as_data_error(f"{path}: {name} cannot be read", _SAVE_AGAIN), zipfile.ZipFile(path) as archive:
        return parse(unpack(archive, archive.getinfo(f"{name}.npy"), f"{path}: {name}"))[0]


def as_bytes(rows: Rows, name: str) -> Rows:
    """Bring pixels of any type to uint8, from a range that is beyond doubt, rounding to nearest.

    Booleans are black and white, whole numbers from 0 to 255 bytes, uint16 up to more than half its range 16 bits;
    floats reach from 0 or -1 to 1, or as bytes do to 255. Raises DataError for any other range, with what brings it to
    bytes.
    """
    if rows.dtype == np.uint8:
        return rows
    if rows.dtype.kind not in "biuf" or 0 in rows.shape:
        raise DataError(f"{name} holds {math.prod(rows.shape)} values of type {rows.dtype}", "save bytes from 0 to 255")
    low, high = map(float, _span(rows))
    if not math.isfinite(low) or not math.isfinite(high):
        raise DataError(f"{name} holds NaN or infinity", "save finite numbers")
    bottom, top = _range(rows.dtype, low, high)
    if top == bottom:
        remedy = f"save bytes: ((images - {low:g}) * (255 / {high - low:g})).round().astype('uint8')"
        if rows.dtype.kind in "iu":
            remedy = remedy.replace("(images ", "(images.astype(float) ")
        if high == low:
            remedy = "save bytes from 0 to 255"
        raise DataError(f"{name} holds {rows.dtype} from {low:g} to {high:g}, of which the range is not known", remedy)

    def read(start: int, stop: int) -> np.ndarray:
        values = rows.read(start, stop).astype(np.float64)
        return ((values - bottom) * (255 / (top - bottom))).round().astype(np.uint8)

    return replace(rows, dtype=np.dtype(np.uint8), read=read)


def _span(rows: Rows) -> tuple[np.number, np.number]:
    """Return the least and the greatest value; NaN where there is one."""
    spans = np.array([(piece.min(), piece.max()) for piece in rows.pieces()])
    return spans.min(), spans.max()


def _range(dtype: np.dtype, low: float, high: float) -> tuple[float, float]:
    """Return what is black and what is white for values from `low` to `high`; twice the same where that is unknown."""
    if dtype.kind == "b":
        return 0.0, 1.0
    if dtype == np.uint16 and high > 32_767:
        return 0.0, 65_535.0
    if low >= 0 and (1 if dtype.kind in "iu" else 127) < high <= 255:
        return 0.0, 255.0
    if dtype.kind == "f" and low >= 0 and 0.5 < high <= 1:
        return 0.0, 1.0
    if dtype.kind == "f" and -1 <= low < -0.5 and 0.5 < high <= 1:
        return -1.0, 1.0
    return 0.0, 0.0


def _pixels(array: np.ndarray) -> np.ndarray:
    """Bring images to (N, H, W) or (N, H, W, 3 or 4); CIFAR's (N, 3072) and channels-first ones are recognised."""
    if array.ndim == 2 and array.shape[1] == 3072:
        array = array.reshape(-1, 3, 32, 32)
    first, last = (array.shape[1], array.shape[3]) if array.ndim == 4 else (0, 0)
    if (first in (1, 3) and last not in (1, 3)) or (first == 4 and last not in (1, 3, 4)):
        array = array.transpose(0, 2, 3, 1)
    return array[..., 0] if array.ndim == 4 and array.shape[3] == 1 else array


def _from_arrays(
    location: str, rows: Rows, labels: np.ndarray | None, name: str, class_names: list[str] | None = None
) -> ImageSource:
    shape = _pixels(np.empty((0, *rows.shape[1:]), dtype=np.uint8)).shape
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (3, 4)) or 0 in shape[1:]:
        forms = "save images as (N, H, W), as (N, H, W, 3), or with transparency as (N, H, W, 4)"
        raise DataError(f"{location}: {name} has shape {rows.shape}", forms)
    if len(rows) > max(_FREE_IMAGES, rows.stored // _LEAST_STORED):
        held = f"{len(rows):,} images in {rows.stored:,} bytes"
        raise DataError(f"{location}: {name} holds {held}, like a decompression bomb", "save fewer, or larger ones")
    if len(rows):
        area = math.prod(shape[1:3])
        MEMORY.take(rows.row_bytes + _PICTURE * area, rows.stored // len(rows), f"{location}: an image of {name}")
    names = [f"{index:06d}" for index in range(len(rows))]
    if labels is not None:
        if labels.dtype.kind not in "iu" or labels.size != len(rows):
            found = f"{labels.size} labels of type {labels.dtype}"
            raise DataError(f"{location} has {found} for {len(rows)} images", "give one whole number per image")
        if labels.dtype == np.uint64:
            labels = labels.clip(max=2**62)
        labels = labels.reshape(-1).astype(np.int64)

    def fetch(row: int) -> np.ndarray:
        return np.ascontiguousarray(_pixels(rows.read(row, row + 1))[0])

    return image_source(location, names, fetch, labels, class_names)
