"""Latent shards hold what was written, anyone can open them, and no damage goes unnoticed."""

import io
import json
import multiprocessing
import os
import signal
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from safetensors.numpy import load_file, save_file

from ldm.core.artifacts import Artifact, Identity, claim, open_artifact
from ldm.core.data.shards import (
    FIELDS,
    INDEX,
    LatentSample,
    LatentSet,
    read_shard,
    shard_name,
    write_index,
    write_shard,
)
from ldm.core.errors import DataError
from ldm.core.lock import occupy

SHAPE = (3, 4, 5)
NAMES = {"train": ["shard-000000.tar", "shard-000001.tar"], "val": ["val-000000.tar"]}


def make_samples(first: int, count: int, fields: tuple[str, ...] = FIELDS) -> list[LatentSample]:
    draws = np.random.Generator(np.random.Philox(first))

    def sample(key: int) -> LatentSample:
        arrays = {field: draws.standard_normal(SHAPE).astype(np.float16) for field in fields}
        return LatentSample(arrays, key % 4, f"a/{key}.png")

    return [sample(key) for key in range(first, first + count)]


def write_all(folder: Path, fields: tuple[str, ...] = FIELDS) -> dict[str, list[LatentSample]]:
    """Write two shards for training and one for validation, and their index."""
    samples = {"train": make_samples(0, 8, fields), "val": make_samples(100, 3, fields)}
    write_shard(folder / "shard-000000.tar", 0, samples["train"][:5])
    write_shard(folder / "shard-000001.tar", 5, samples["train"][5:])
    write_shard(folder / "val-000000.tar", 0, samples["val"])
    write_index(folder, NAMES)
    return samples


def expected(samples: list[LatentSample], field: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([sample.arrays[field] for sample in samples])).float()


def test_shards_are_named_by_split_and_number() -> None:
    assert shard_name("train", 0) == "shard-000000.tar" and shard_name("val", 12) == "val-000012.tar"


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_all(tmp_path / "a")
    os.utime(tmp_path / "a", (0, 0))
    write_all(tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == [INDEX, *NAMES["train"], *NAMES["val"]]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    with tarfile.open(tmp_path / "a" / "shard-000000.tar") as tar:
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, "")}


def test_webdataset_opens_the_shards_and_finds_the_same_arrays_and_labels(tmp_path: Path) -> None:
    written = write_all(tmp_path)["train"]
    urls = [str(tmp_path / name) for name in NAMES["train"]]
    opened = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in opened] == [f"{key:09d}" for key in range(8)]
    for sample, original in zip(opened, written, strict=True):
        assert sample["cls"] == original.label
        assert sample["json"] == {"name": original.name, "label": original.label}
        for field in FIELDS:
            assert sample[field].dtype == np.float16
            assert np.array_equal(sample[field], original.arrays[field])


def test_a_batch_holds_what_was_written_mirrored_and_deviations_included(tmp_path: Path) -> None:
    written = write_all(tmp_path)
    latents = LatentSet(tmp_path, "train", NAMES["train"], SHAPE)
    assert len(latents) == 8 and latents.has_flip and latents.has_std
    assert latents.labels.tolist() == [sample.label for sample in written["train"]]
    everything = np.arange(8)
    for flip, std, field in ((0, 0, "npy"), (1, 0, "flip.npy"), (0, 1, "std.npy"), (1, 1, "flip.std.npy")):
        batch = latents.batch(everything, np.full(8, bool(flip)), bool(std))
        assert batch.dtype == torch.float32
        assert torch.equal(batch, expected(written["train"], field))
    held_out = LatentSet(tmp_path, "val", NAMES["val"], SHAPE)
    assert torch.equal(held_out.batch(np.arange(3)), expected(written["val"], "npy"))


def test_a_batch_follows_its_indices_and_flips_in_any_order(tmp_path: Path) -> None:
    written = write_all(tmp_path)["train"]
    latents = LatentSet(tmp_path, "train", NAMES["train"], SHAPE)
    indices, flip = np.array([7, 0, 5, 5, 4]), np.array([True, False, True, False, False])
    fields = ["flip.npy" if mirrored else "npy" for mirrored in flip]
    rows = [torch.from_numpy(written[i].arrays[field]) for i, field in zip(indices, fields, strict=True)]
    assert torch.equal(latents.batch(indices, flip), torch.stack(rows).float())
    assert latents.batch(np.empty(0, np.int64)).shape == (0, *SHAPE)


def test_latents_without_mirror_images_and_deviations_say_so(tmp_path: Path) -> None:
    write_all(tmp_path, ("npy",))
    latents = LatentSet(tmp_path, "train", NAMES["train"], SHAPE)
    assert not latents.has_flip and not latents.has_std
    assert latents.batch(np.arange(8)).shape == (8, *SHAPE)
    with pytest.raises(AssertionError):
        latents.batch(np.arange(8), std=True)
    with pytest.raises(AssertionError):
        latents.batch(np.arange(8), np.zeros(8, dtype=bool))


def test_a_split_may_be_empty(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard-000000.tar", 0, make_samples(0, 2))
    write_index(tmp_path, {"train": ["shard-000000.tar"], "val": []})
    assert len(LatentSet(tmp_path, "val", [], SHAPE)) == 0
    assert len(LatentSet(tmp_path, "train", ["shard-000000.tar"], SHAPE)) == 2


def test_samples_of_another_format_are_refused_before_they_are_written() -> None:
    with pytest.raises(AssertionError):
        LatentSample({"npy": np.zeros(SHAPE, np.float32)}, 0, "a")
    with pytest.raises(AssertionError):
        LatentSample({"flip.npy": np.zeros(SHAPE, np.float16)}, 0, "a")
    with pytest.raises(AssertionError):
        LatentSample({"npy": np.zeros(SHAPE, np.float16), "latent.npy": np.zeros(SHAPE, np.float16)}, 0, "a")


def test_names_of_any_bytes_travel(tmp_path: Path) -> None:
    names = [os.fsdecode(b"\xff\n.png"), "émoji 🐟.jpg", "a.b.c/d.e", "-x", ""]
    samples = [replace(sample, name=name) for sample, name in zip(make_samples(0, 5), names, strict=True)]
    write_shard(tmp_path / "shard-000000.tar", 0, samples)
    members = read_shard(tmp_path / "shard-000000.tar")
    sources = [json.loads(content) for _, field, _, content in members if field == "json"]
    assert [source["name"] for source in sources] == names


@pytest.mark.parametrize("key", ["shard", "npy", "flip.npy", "std.npy", "flip.std.npy"])
@pytest.mark.parametrize("value", [-1, 2, 10**9, 2**62])
def test_an_index_that_points_out_of_its_shards_is_refused(tmp_path: Path, key: str, value: int) -> None:
    write_all(tmp_path)
    index = load_file(tmp_path / INDEX)
    index[f"train.{key}"][6] = value
    save_file(index, tmp_path / INDEX)
    with pytest.raises(DataError, match=r"index\.safetensors does not fit its shards .*encode again"):
        LatentSet(tmp_path, "train", NAMES["train"], SHAPE)


def test_an_index_of_another_length_shape_or_split_is_refused(tmp_path: Path) -> None:
    write_all(tmp_path)
    with pytest.raises(DataError, match="lists no 'test' samples"):
        LatentSet(tmp_path, "test", [], SHAPE)
    with pytest.raises(DataError, match="does not fit"):
        LatentSet(tmp_path, "train", NAMES["train"], (3, 400, 500))
    whole = load_file(tmp_path / INDEX)
    for key in ("train.label", "train.shard", "train.npy", "train.flip.npy"):
        save_file({**whole, key: whole[key][:-1]}, tmp_path / INDEX)
        with pytest.raises(DataError, match="does not fit"):
            LatentSet(tmp_path, "train", NAMES["train"], SHAPE)
    (tmp_path / INDEX).write_bytes(b"\x00" * 40)
    with pytest.raises(DataError, match=r"index\.safetensors cannot be read"):
        LatentSet(tmp_path, "train", NAMES["train"], SHAPE)
    (tmp_path / INDEX).unlink()
    with pytest.raises(DataError, match=r"index\.safetensors cannot be read"):
        LatentSet(tmp_path, "train", NAMES["train"], SHAPE)


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A finished latents directory."""
    folder = tmp_path_factory.mktemp("latents")
    with occupy(folder):
        work = claim(folder, Identity("latents", "ldm encode", {}, {}, ""))
        write_all(folder)
        return work.commit([*NAMES["train"], *NAMES["val"], INDEX], {})


def damages(whole: bytes, kind: str) -> Iterator[bytes]:
    """Yield damaged copies of a file: each a truncation, a flipped bit or 4 KB of zeros, at places spread over it."""
    for place in range(0, len(whole), 997):
        if kind == "truncated":
            yield whole[:place]
        elif kind == "flipped":
            yield whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        elif any(whole[place : place + 4096]):
            yield (whole[:place] + bytes(4096) + whole[place + 4096 :])[: len(whole)]


@pytest.mark.parametrize("kind", ["truncated", "flipped", "zeroed"])
@pytest.mark.parametrize("name", ["shard-000001.tar", INDEX])
def test_every_damage_to_a_shard_or_the_index_is_detected_by_name(latents: Artifact, name: str, kind: str) -> None:
    path = latents.path / name
    whole = path.read_bytes()
    trials = 0
    try:
        for damaged in damages(whole, kind):
            path.write_bytes(damaged)
            with pytest.raises(DataError) as caught:
                open_artifact(latents.path, "latents", "ldm encode").verify()
            assert str(path) in caught.value.message and "ldm encode --replace" in str(caught.value.remedy)
            trials += 1
    finally:
        path.write_bytes(whole)
    latents.verify()
    assert trials >= (15 if name != INDEX else 1)


def test_an_index_over_shards_with_unreadable_headers_is_refused(tmp_path: Path) -> None:
    """tarfile alone takes a header that it cannot read for the end, and would silently drop what follows."""
    path = tmp_path / "shard-000000.tar"
    write_shard(path, 0, make_samples(0, 3, ("npy",)))
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        headers = [member.offset for member in tar]
    for place in headers:
        for damaged in (bytes(512), whole[place : place + 511] + b"\x01", whole[place : place + 148] + b"7" * 364):
            path.write_bytes(whole[:place] + damaged + whole[place + 512 :])
            with pytest.raises(DataError, match=r"shard-000000\.tar is damaged.*remove it, then encode again"):
                write_index(tmp_path, {"train": [path.name]})
    for length in (0, 100, 512, headers[3], headers[3] + 700, len(whole.rstrip(bytes(1)))):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"shard-000000\.tar is damaged"):
            write_index(tmp_path, {"train": [path.name]})


def test_shards_in_the_wrong_order_or_with_a_hole_are_refused(tmp_path: Path) -> None:
    write_all(tmp_path)
    with pytest.raises(DataError, match=r"shard-000001\.tar is damaged at 000000005.*or not the next"):
        write_index(tmp_path, {"train": NAMES["train"][::-1]})
    write_shard(tmp_path / "shard-000000.tar", 0, make_samples(0, 4))
    with pytest.raises(DataError, match="not the next"):
        write_index(tmp_path, {"train": NAMES["train"]})
    mixed = [*make_samples(0, 2), *make_samples(2, 1, ("npy",)), *make_samples(3, 2)]
    write_shard(tmp_path / "shard-000000.tar", 0, mixed)
    with pytest.raises(DataError, match=r"000000002\.json: the sample is not whole"):
        write_index(tmp_path, {"train": NAMES["train"]})


def test_a_member_that_is_no_file_or_no_number_is_refused(tmp_path: Path) -> None:
    def add(tar: tarfile.TarFile, name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.type, member.linkname = len(content), kind, "/etc/passwd"
        tar.addfile(member, io.BytesIO(content))

    path = tmp_path / "shard-000000.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "000000000.npy", b"", tarfile.SYMTYPE)
    with pytest.raises(DataError, match="which is no file"):
        write_index(tmp_path, {"train": [path.name]})
    for name, content in (("000000000.cls", b"cat"), ("000000000.npy", b"\x93NUMPY"), ("x.json", b"{}")):
        with tarfile.open(path, "w") as tar:
            add(tar, name, content)
        with pytest.raises(DataError, match=rf"shard-000000\.tar is damaged at {name}"):
            write_index(tmp_path, {"train": [path.name]})


def killed_while_writing(folder: Path) -> None:
    def samples() -> Iterator[LatentSample]:
        for _ in range(30):
            yield LatentSample({"npy": np.zeros((3, 40, 50), np.float16)}, 0, "a")
        os.kill(os.getpid(), signal.SIGKILL)

    write_shard(folder / "shard-000000.tar", 0, samples())


def test_an_interrupted_write_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=killed_while_writing, args=[tmp_path])
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    left = list(tmp_path.iterdir())
    assert [path.name[:5] for path in left] == [".tmp-"] and left[0].stat().st_size > 0

    def failing() -> Iterator[LatentSample]:
        yield from make_samples(0, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "shard-000000.tar", 0, failing())
    assert list(tmp_path.iterdir()) == left
