"""Latents for training: random batches by each way of reading, against webdataset; and a million of them at start."""

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldm.core.images.order import stream
from ldm.core.latents.index import INDEX, write_index
from ldm.core.latents.sets import read_latents
from ldm.core.latents.sharded import Reading, ShardedLatents
from ldm.core.latents.shards import LatentSample, Shard, shard_name, write_shard
from ldm.core.runs.claim import claim
from ldm.core.runs.roles import LATENTS
from ldm.core.runs.run import Identity, StageRun, open_run

from .interleaved import compare
from .options import Options

SHAPE, BATCH, SHARD = (4, 16, 16), 64, 4096
COMPARED, MANY = 2 * SHARD, 1_000_000
READINGS: tuple[Reading, ...] = ("held", "mapped", "streamed")
_NEEDED = 8 << 30  # bytes of disk for the million


def measure(options: Options) -> dict[str, Any]:
    """Compare samples per second, one thread each, and start on a million latents by each way of reading."""
    try:
        import webdataset
    except ModuleNotFoundError:
        return {"skipped": "no webdataset: pip install webdataset"}
    with tempfile.TemporaryDirectory() as folder:
        latents = write_latents(Path(folder), COMPARED)
        paths = [str(path) for path in sorted(latents.path.glob("shard-*.tar"))]

        def decode() -> None:
            for sample in webdataset.WebDataset(paths, shardshuffle=False).decode():
                assert sample["npy"].shape == SHAPE

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        sets = {reading: _open(latents, reading) for reading in READINGS}
        works = {
            f"{reading}, random batches of {BATCH}": lambda s=source: _epoch(s) for reading, source in sets.items()
        }
        comparison = compare({"webdataset, in order, .decode()": decode, **works}, options.rounds, warmup=1)
        torch.set_num_threads(threads)
    rates = {
        f"samples per second, {name}": round(COMPARED / row["seconds"]) for name, row in comparison["variants"].items()
    }
    title = f"{COMPARED:,} latents of {' × '.join(map(str, SHAPE))}, float16, one by one in tars"
    return {"facts": {**rates, **at_start()}, "comparisons": {title: comparison}}


def at_start() -> dict[str, Any]:
    """Say how long a million latents take to the first batch, and how much memory, in a new process each."""
    if shutil.disk_usage(tempfile.gettempdir()).free < _NEEDED:
        return {"a million latents": f"left out: {tempfile.gettempdir()} has less than {_NEEDED >> 30} GB free"}
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        latents = write_latents(Path(folder), MANY)
        measured[f"{MANY:,} latents, seconds to write"] = round(time.perf_counter() - started, 1)
        measured["their shards, MB"] = round(sum(entry["bytes"] for entry in latents.manifest["files"].values()) / 1e6)
        for cached in (False, True):
            for reading in READINGS:
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    found = pool.submit(_start, latents.path, reading, cached).result()
                where = "in the page cache" if cached else "on the disk"
                measured[f"{reading}, shards {where}"] = found
    return measured


def write_latents(folder: Path, count: int) -> StageRun:
    """Write a finished latents stage of so many random samples, as `encode` does."""
    work = claim(folder, Identity("latents", "ldm encode", {}, {}, ""))
    noise = np.random.default_rng(0).standard_normal((SHARD, *SHAPE)).astype(np.float16)

    def samples(first: int, number: int) -> Iterator[LatentSample]:
        for row in range(number):
            yield LatentSample({"npy": noise[row]}, (first + row) % 1000, f"n{row % 1000:08d}/{first + row:08d}.JPEG")

    def split(name: str, total: int) -> list[Shard]:
        starts = range(0, total, SHARD)
        sizes = [min(SHARD, total - start) for start in starts]
        return [
            write_shard(folder / shard_name(name, number), start, samples(start, size))
            for number, (start, size) in enumerate(zip(starts, sizes, strict=True))
        ]

    shards = {"train": split("train", count), "val": split("val", 64)}
    write_index(folder, shards)
    metadata = {
        "latent_shape": list(SHAPE),
        "class_names": [str(number) for number in range(1000)],
        "class_counts": [count // 1000] * 1000,
        "image_size": 8 * SHAPE[-1],
        "shards": {name: [shard.name for shard in parts] for name, parts in shards.items()},
        "samples": {"train": count, "val": 64},
    }
    hashes = {shard.name: shard.sha256 for parts in shards.values() for shard in parts}
    return work.commit([*hashes, INDEX], metadata, hashes)


def _open(latents: StageRun, reading: Reading) -> ShardedLatents:
    train = read_latents(latents, reading).train
    assert isinstance(train, ShardedLatents)
    return train


def _epoch(source: ShardedLatents) -> None:
    for start in range(0, COMPARED, BATCH):
        chosen = stream(0, start, start + BATCH, len(source))
        assert len(source.array("npy", chosen).float()) == len(source.cond(chosen, chosen)["labels"])


def _start(folder: Path, reading: Reading, cached: bool) -> str:
    """Open the latents in this new process and draw batches; say how long and how much."""
    if not cached:
        for path in folder.glob("*.tar"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = _memory()
    started = time.perf_counter()
    source = _open(open_run(folder, LATENTS, "ldm encode"), reading)
    source.array("npy", stream(0, 0, BATCH, len(source)))
    first = time.perf_counter() - started
    started = time.perf_counter()
    for start in range(BATCH, 301 * BATCH, BATCH):
        source.array("npy", stream(0, start, start + BATCH, len(source)))
    rate = 300 * BATCH / (time.perf_counter() - started)
    after = _memory()
    own, mapped = ((after[key] - before[key]) / 1e6 for key in ("own", "mapped"))
    return (
        f"{first:.1f} s to the first batch, then {rate:,.0f} samples a second; "
        f"{own:,.0f} MB of memory of its own, {mapped:,.0f} MB of the page cache mapped"
    )


def _memory() -> dict[str, int]:
    """Return the bytes of this process that are its own, and those of files that it maps and others could have."""
    rows = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        key, value = line.split()[:2]
        rows[key.rstrip(":")] = int(value) * 1024
    return {"own": rows["Pss_Anon"], "mapped": rows["Pss_File"]}
