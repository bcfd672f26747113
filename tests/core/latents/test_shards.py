"""Latent shards hold what was written, anyone can open them, and no damage goes unnoticed."""

import hashlib
import io
import json
import multiprocessing
import os
import resource
import signal
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset
from safetensors.numpy import load_file, save_file

from ldm.core.errors import DataError
from ldm.core.latents.fields import ARRAYS
from ldm.core.latents.index import INDEX, check_index, write_index
from ldm.core.latents.readers import StreamedFiles
from ldm.core.latents.shards import LatentSample, Shard, load_shard, read_shard, shard_name, write_shard
from ldm.core.runs.claim import claim
from ldm.core.runs.lock import occupy
from ldm.core.runs.roles import LATENTS
from ldm.core.runs.run import Identity, StageRun, open_run
from tests.support.small_shards import NAMES, SHAPE, make_samples, write_all


def read_and_index(folder: Path, names: list[str]) -> None:
    """Write the index from what the shards hold, as `encode` does for those that it finds."""
    shards: list[Shard] = []
    for name in names:
        shards.append(load_shard(folder / name, sum(map(len, shards)))[0])
    write_index(folder, {"train": shards})


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
        for field in ARRAYS:
            assert sample[field].dtype == np.float16
            assert np.array_equal(sample[field], original.arrays[field])


def as_tarfile_writes(first_key: int, samples: list[LatentSample]) -> bytes:
    """Return the shard as the standard library and numpy write it."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

        for key, sample in enumerate(samples, first_key):
            for field, array in sample.arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=False)
                add(f"{key:09d}.{field}", buffer.getvalue())
            add(f"{key:09d}.cls", str(sample.label).encode())
            add(f"{key:09d}.json", json.dumps({"name": sample.name, "label": sample.label}).encode())
    return archive.getvalue()


@pytest.mark.parametrize("count", [0, 1, 2, 5, 7])
def test_a_shard_is_to_the_byte_what_tarfile_and_numpy_write(tmp_path: Path, count: int) -> None:
    samples = make_samples(0, count)
    samples += [replace(sample, name="x" * 700, label=10**6) for sample in make_samples(7, count, ("npy",))]
    write_shard(tmp_path / "shard-000000.tar", 123_456_780, samples)
    assert (tmp_path / "shard-000000.tar").read_bytes() == as_tarfile_writes(123_456_780, samples)


def test_a_shard_read_is_the_shard_written_and_both_know_the_files_hash(tmp_path: Path) -> None:
    samples = make_samples(40, 6)
    written = write_shard(tmp_path / "shard-000000.tar", 40, samples)
    read, again = load_shard(tmp_path / "shard-000000.tar", 40)
    assert (read.name, read.sha256, len(read)) == (written.name, written.sha256, 6)
    assert read.sha256 == hashlib.sha256((tmp_path / "shard-000000.tar").read_bytes()).hexdigest()
    assert np.array_equal(read.labels, written.labels)
    for field in ARRAYS:
        assert np.array_equal(read.offsets[field], written.offsets[field])
        assert np.array_equal(read.checksums[field], written.checksums[field])
        assert [zlib.crc32(sample.arrays[field].tobytes()) for sample in samples] == read.checksums[field].tolist()
        assert all(np.array_equal(a.arrays[field], b.arrays[field]) for a, b in zip(again, samples, strict=True))
    assert [(each.label, each.name) for each in again] == [(each.label, each.name) for each in samples]


def test_an_index_that_differs_from_its_shards_is_named(tmp_path: Path) -> None:
    write_all(tmp_path)
    assert {split: len(labels) for split, labels in check_index(tmp_path, NAMES).items()} == {"train": 8, "val": 3}
    whole = load_file(tmp_path / INDEX)
    for key in whole:
        changed = whole[key].copy()
        changed[2] += 1
        save_file({**whole, key: changed}, tmp_path / INDEX)
        with pytest.raises(DataError, match=r"index\.safetensors is not the index of the shards beside it"):
            check_index(tmp_path, NAMES)
    save_file({key: values for key, values in whole.items() if "crc32" not in key}, tmp_path / INDEX)
    check_index(tmp_path, NAMES)  # As it was before there were checksums.


def test_samples_of_another_format_are_refused_before_they_are_written() -> None:
    with pytest.raises(AssertionError):
        LatentSample({"npy": np.zeros(SHAPE, np.float32)}, 0, "a")
    with pytest.raises(AssertionError):
        LatentSample({"flip.npy": np.zeros(SHAPE, np.float16)}, 0, "a")
    with pytest.raises(AssertionError):
        LatentSample({"npy": np.zeros(SHAPE, np.float16), "std.npy": np.zeros((1, 2, 2), np.float16)}, 0, "a")
    for name in ("latent", "a/b.npy", "../npy", "A.npy"):
        with pytest.raises(AssertionError):
            LatentSample({"npy": np.zeros(SHAPE, np.float16), name: np.zeros(SHAPE, np.float16)}, 0, "a")


def test_names_of_any_bytes_travel(tmp_path: Path) -> None:
    names = [os.fsdecode(b"\xff\n.png"), "émoji 🐟.jpg", "a.b.c/d.e", "-x", ""]
    samples = [replace(sample, name=name) for sample, name in zip(make_samples(0, 5), names, strict=True)]
    write_shard(tmp_path / "shard-000000.tar", 0, samples)
    members = read_shard(tmp_path / "shard-000000.tar")
    sources = [json.loads(content) for _, field, _, content in members if field == "json"]
    assert [source["name"] for source in sources] == names


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """A finished latents directory."""
    folder = tmp_path_factory.mktemp("latents")
    with occupy(folder):
        work = claim(folder, Identity("latents", "ldm encode", {}, {}, ""))
        write_all(folder)
        labels = check_index(folder, NAMES)
        facts = {
            "class_names": ["a", "b", "c"],
            "class_counts": np.bincount(labels["train"], minlength=3).tolist(),
            "latent_shape": list(SHAPE),
            "image_size": 16,
            "shards": NAMES,
            "samples": {split: len(each) for split, each in labels.items()},
        }
        return work.commit([*NAMES["train"], *NAMES["val"], INDEX], facts)


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
def test_every_damage_to_a_shard_or_the_index_is_detected_by_name(latents: StageRun, name: str, kind: str) -> None:
    path = latents.path / name
    whole = path.read_bytes()
    trials = 0
    try:
        for damaged in damages(whole, kind):
            path.write_bytes(damaged)
            with pytest.raises(DataError) as caught:
                open_run(latents.path, LATENTS, "ldm encode").verify()
            assert str(path) in caught.value.message and "mend it: ldm encode" in str(caught.value.remedy)
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
            with pytest.raises(DataError, match=r"shard-000000\.tar is damaged"):
                read_and_index(tmp_path, [path.name])
    for length in (0, 100, 512, headers[3], headers[3] + 700, len(whole.rstrip(bytes(1)))):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"shard-000000\.tar is damaged"):
            read_and_index(tmp_path, [path.name])


def test_shards_in_the_wrong_order_or_with_a_hole_are_refused(tmp_path: Path) -> None:
    write_all(tmp_path)
    with pytest.raises(DataError, match=r"shard-000001\.tar is damaged at 000000005.*or not the next"):
        read_and_index(tmp_path, NAMES["train"][::-1])
    write_shard(tmp_path / "shard-000000.tar", 0, make_samples(0, 4))
    with pytest.raises(DataError, match="not the next"):
        read_and_index(tmp_path, NAMES["train"])
    mixed = [*make_samples(0, 2), *make_samples(2, 1, ("npy",)), *make_samples(3, 2)]
    write_shard(tmp_path / "shard-000000.tar", 0, mixed)
    with pytest.raises(DataError, match=r"000000002\.json: the sample is not whole"):
        read_and_index(tmp_path, NAMES["train"])


def test_a_member_that_is_no_file_or_no_number_is_refused(tmp_path: Path) -> None:
    def add(tar: tarfile.TarFile, name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.type, member.linkname = len(content), kind, "/etc/passwd"
        tar.addfile(member, io.BytesIO(content))

    path = tmp_path / "shard-000000.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "000000000.npy", b"", tarfile.SYMTYPE)
    with pytest.raises(DataError, match="is a link or a special file"):
        read_and_index(tmp_path, [path.name])
    for name, content in (("000000000.cls", b"cat"), ("000000000.npy", b"\x93NUMPY"), ("x.json", b"{}")):
        with tarfile.open(path, "w") as tar:
            add(tar, name, content)
        with pytest.raises(DataError, match=rf"shard-000000\.tar is damaged at {name}"):
            read_and_index(tmp_path, [path.name])


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


def test_more_shards_than_files_may_be_open_are_streamed(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.tar" for number in range(171)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 64, hard))
        readers = [StreamedFiles(paths) for _ in range(3)]
        for reader in readers:
            assert reader.read((number, 0, 1) for number in range(171)) == [bytes([number]) for number in range(171)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
