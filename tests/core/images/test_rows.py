"""Arrays read by rows: the same numbers from memory, from inside an archive, and unpacked on the disk."""

import gzip
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ldm.core.errors import DataError
from ldm.core.images import rows
from ldm.core.images.arrays import read_idx
from ldm.core.images.sources import open_source

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 9, 7, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Take everything for large."""
    monkeypatch.setattr(rows, "_IN_MEMORY", 100)
    monkeypatch.setattr(rows, "_CHUNK", 1000)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_images_of_a_large_npz_are_those_of_the_array(save: object, order: str, tmp_path: Path) -> None:
    save(tmp_path / "a.npz", images=np.asarray(PIXELS, order=order), labels=np.arange(50) % 3)  # type: ignore[operator]
    source = open_source(str(tmp_path / "a.npz"))
    for index in (0, 49, 7):
        np.testing.assert_array_equal(source.read(index), PIXELS[index])
    assert len(source) == 50 and source.labels.tolist() == [index % 3 for index in range(50)]


def test_floats_of_a_large_npz_become_bytes_by_the_range_of_all_of_them(tmp_path: Path) -> None:
    floats = PIXELS / np.float32(255)
    np.savez_compressed(tmp_path / "a.npz", images=floats)
    source = open_source(str(tmp_path / "a.npz"))
    for index in (0, 49):
        np.testing.assert_array_equal(source.read(index), PIXELS[index])


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_rows_of_a_large_idx_file_are_those_of_the_array(suffix: str, tmp_path: Path) -> None:
    grey = PIXELS[..., 0]
    content = struct.pack(">HBB3I", 0, 8, 3, *grey.shape) + grey.tobytes()
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    found = read_idx(path)
    np.testing.assert_array_equal(np.concatenate([*found.pieces()]), grey)
    path.write_bytes(gzip.compress(content + b"1") if suffix else content + b"1")
    with pytest.raises(DataError, match="holds more than the"):
        read_idx(path)


def test_a_flipped_byte_in_a_large_npz_is_named_before_any_image_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=PIXELS)
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("images.npy").header_offset
    content = bytearray(path.read_bytes())
    content[offset + 5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="Bad CRC-32"):
        open_source(str(path))
