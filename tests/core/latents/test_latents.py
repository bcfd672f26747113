"""Latents are the same to the bit however they are read, and what is damaged is named."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from ldm.core.errors import DataError
from ldm.core.latents import readers
from ldm.core.latents.fields import ARRAYS
from ldm.core.latents.index import INDEX, write_index
from ldm.core.latents.sharded import Reading, ShardedLatents, best_reading, read_tables
from ldm.core.latents.shards import load_shard, write_shard
from tests.support.small_shards import NAMES, SHAPE, expected, make_samples, write_all

READINGS: Sequence[Reading] = get_args(Reading)


@pytest.mark.parametrize("reading", READINGS)
def test_a_batch_holds_what_was_written_mirrored_and_deviations_included(tmp_path: Path, reading: Reading) -> None:
    written = write_all(tmp_path)
    latents = ShardedLatents(tmp_path, "train", NAMES["train"], SHAPE, reading)
    assert len(latents) == 8 and set(latents.fields) == {*ARRAYS, "cls"}
    assert latents.labels.tolist() == [sample.label for sample in written["train"]]
    everything = np.arange(8)
    for flip, std, field in ((0, 0, "npy"), (1, 0, "flip.npy"), (0, 1, "std.npy"), (1, 1, "flip.std.npy")):
        batch = latents.array("std.npy" if std else "npy", everything, np.full(8, bool(flip)))
        assert batch.dtype == torch.float16
        assert torch.equal(batch.float(), expected(written["train"], field))
    held_out = ShardedLatents(tmp_path, "val", NAMES["val"], SHAPE)
    assert torch.equal(held_out.array("npy", np.arange(3)).float(), expected(written["val"], "npy"))


@pytest.mark.parametrize("reading", READINGS)
def test_a_batch_follows_its_indices_and_flips_in_any_order(tmp_path: Path, reading: Reading) -> None:
    written = write_all(tmp_path)["train"]
    latents = ShardedLatents(tmp_path, "train", NAMES["train"], SHAPE, reading)
    indices, flip = np.array([7, 0, 5, 5, 4]), np.array([True, False, True, False, False])
    fields = ["flip.npy" if mirrored else "npy" for mirrored in flip.tolist()]
    rows = [torch.from_numpy(written[i].arrays[field]) for i, field in zip(indices, fields, strict=True)]
    assert torch.equal(latents.array("npy", indices, flip), torch.stack(rows))
    assert latents.array("npy", np.empty(0, np.int64)).shape == (0, *SHAPE)


def test_latents_without_mirror_images_and_deviations_say_so(tmp_path: Path) -> None:
    write_all(tmp_path, ("npy",))
    latents = ShardedLatents(tmp_path, "train", NAMES["train"], SHAPE)
    assert set(latents.fields) == {"npy", "cls"}
    assert latents.batch(np.arange(8), np.arange(8), 0).shape == (8, *SHAPE)
    with pytest.raises(AssertionError):
        latents.array("npy", np.arange(8), np.zeros(8, dtype=bool))


@pytest.mark.parametrize("reading", READINGS)
def test_a_split_may_be_empty(tmp_path: Path, reading: Reading) -> None:
    shard = write_shard(tmp_path / "shard-000000.tar", 0, make_samples(0, 2))
    write_index(tmp_path, {"train": [shard], "val": []})
    empty = ShardedLatents(tmp_path, "val", [], SHAPE, reading)
    assert len(empty) == 0 and empty.array("npy", np.empty(0, np.int64)).shape == (0, *SHAPE)
    assert len(ShardedLatents(tmp_path, "train", ["shard-000000.tar"], SHAPE, reading)) == 2


def test_batches_are_the_same_to_the_bit_however_they_are_read(tmp_path: Path) -> None:
    """Many shards, arrays of two kinds, names so long that samples lie unevenly, and a training's order."""
    samples = [replace(sample, name="x" * (600 * (key % 3 == 0))) for key, sample in enumerate(make_samples(0, 50))]
    shards = [write_shard(tmp_path / f"{start}.tar", start, samples[start : start + 7]) for start in range(0, 50, 7)]
    write_index(tmp_path, {"train": shards})
    names = [shard.name for shard in shards]
    sets = [ShardedLatents(tmp_path, "train", names, SHAPE, reading) for reading in READINGS]
    draws = np.random.Generator(np.random.Philox(0))
    for size in (1, 3, 64, 200):
        indices, flip = draws.integers(0, 50, size), draws.random(size) < 0.5
        for std in (False, True):
            batches = [latents.array("std.npy" if std else "npy", indices, flip) for latents in sets]
            assert all(torch.equal(batch, batches[0]) for batch in batches[1:])
            fields = [f"{'flip.' * mirrored}{'std.' * std}npy" for mirrored in flip.tolist()]
            rows = [torch.from_numpy(samples[i].arrays[f]) for i, f in zip(indices, fields, strict=True)]
            assert torch.equal(batches[0], torch.stack(rows))


def test_a_streamed_latent_that_is_not_what_was_written_is_named_when_it_is_read(tmp_path: Path) -> None:
    write_all(tmp_path)
    path = tmp_path / NAMES["train"][1]
    whole = path.read_bytes()
    shard, samples = load_shard(path, 5)
    size = samples[0].arrays["npy"].nbytes
    for row, bit in ((0, 0), (1, 8 * size - 1), (2, 77)):
        place = int(shard.offsets["flip.npy"][row]) + bit // 8
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit % 8]) + whole[place + 1 :])
        latents = ShardedLatents(tmp_path, "train", NAMES["train"], SHAPE, "streamed")
        assert torch.equal(latents.array("npy", np.arange(5, 8)).float(), expected(samples, "npy")), "these are whole"
        with pytest.raises(
            DataError, match=r"shard-000001\.tar is damaged at byte \d+: the latent there differs"
        ) as said:
            latents.array("npy", np.array([0, 5 + row]), np.array([True, True]))
        assert "mend it: ldm encode" in str(said.value.remedy)
    latents = ShardedLatents(tmp_path, "train", NAMES["train"], SHAPE, "streamed")
    path.write_bytes(whole[: int(shard.offsets["npy"][2]) + 3])
    with pytest.raises(DataError, match=r"shard-000001\.tar is damaged"):
        latents.array("npy", np.array([7]))


def test_streaming_keeps_no_more_files_open_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_MOST_OPEN", 3)
    samples = make_samples(0, 12)
    shards = [write_shard(tmp_path / f"{key}.tar", key, [sample]) for key, sample in enumerate(samples)]
    write_index(tmp_path, {"train": shards})
    latents = ShardedLatents(tmp_path, "train", [shard.name for shard in shards], SHAPE, "streamed")

    def num_open() -> int:
        return sum(path.resolve().is_relative_to(tmp_path) for path in Path("/proc/self/fd").iterdir())

    for _ in range(3):
        assert torch.equal(latents.array("npy", np.arange(12)).float(), expected(samples, "npy"))
        if Path("/proc/self/fd").exists():
            assert num_open() == 3


def test_mapping_keeps_no_file_open(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("this system does not list open files")
    write_all(tmp_path)
    latents = ShardedLatents(tmp_path, "train", NAMES["train"], SHAPE, "mapped")
    assert not any(path.resolve().is_relative_to(tmp_path) for path in Path("/proc/self/fd").iterdir())
    assert len(latents) == 8


def test_a_folder_of_any_name_is_read(tmp_path: Path) -> None:
    for name in ("émoji 🐟\n", "-x y", os.fsdecode(b"\xff")):
        folder = tmp_path / name
        folder.mkdir()
        written = write_all(folder)["train"]
        for reading in READINGS:
            latents = ShardedLatents(folder, "train", NAMES["train"], SHAPE, reading)
            assert torch.equal(latents.array("npy", np.arange(8)).float(), expected(written, "npy"))


def test_an_index_without_checksums_is_read_without_them(tmp_path: Path) -> None:
    written = write_all(tmp_path)["train"]
    index = load_file(tmp_path / INDEX)
    save_file({key: values for key, values in index.items() if "crc32" not in key}, tmp_path / INDEX)
    assert read_tables(tmp_path, "train", NAMES["train"], SHAPE)[1]["npy"].checksums is None
    for reading in READINGS:
        latents = ShardedLatents(tmp_path, "train", NAMES["train"], SHAPE, reading)
        assert torch.equal(latents.array("npy", np.arange(8)).float(), expected(written, "npy"))


def test_sets_are_mapped_where_they_fit_and_streamed_where_they_do_not() -> None:
    assert best_reading(1 << 20, 1 << 19, torch.device("cpu")) == "mapped"
    assert best_reading(1 << 60, 1 << 59, torch.device("cpu")) == "streamed"


@pytest.mark.parametrize("key", ["shard", "npy", "flip.npy", "std.npy", "flip.std.npy"])
@pytest.mark.parametrize("value", [-1, 2, 10**9, 2**62])
def test_an_index_that_points_out_of_its_shards_is_refused(tmp_path: Path, key: str, value: int) -> None:
    write_all(tmp_path)
    index = load_file(tmp_path / INDEX)
    index[f"train.{key}"][6] = value
    save_file(index, tmp_path / INDEX)
    with pytest.raises(DataError, match=r"index\.safetensors does not fit its shards"):
        ShardedLatents(tmp_path, "train", NAMES["train"], SHAPE)


def test_an_index_of_another_length_shape_or_split_is_refused(tmp_path: Path) -> None:
    write_all(tmp_path)
    with pytest.raises(DataError, match="lists no 'test' samples"):
        ShardedLatents(tmp_path, "test", [], SHAPE)
    with pytest.raises(DataError, match="does not fit"):
        ShardedLatents(tmp_path, "train", NAMES["train"], (3, 400, 500))
    whole = load_file(tmp_path / INDEX)
    for key in ("train.label", "train.shard", "train.npy", "train.flip.npy"):
        save_file({**whole, key: whole[key][:-1]}, tmp_path / INDEX)
        with pytest.raises(DataError, match="does not fit"):
            ShardedLatents(tmp_path, "train", NAMES["train"], SHAPE)
    (tmp_path / INDEX).write_bytes(b"\x00" * 40)
    with pytest.raises(DataError, match=r"index\.safetensors cannot be read"):
        ShardedLatents(tmp_path, "train", NAMES["train"], SHAPE)
    (tmp_path / INDEX).unlink()
    with pytest.raises(DataError, match=r"index\.safetensors cannot be read"):
        ShardedLatents(tmp_path, "train", NAMES["train"], SHAPE)
