"""R28: an input below a megabyte takes less than 300 MB, with all threads that decode, and decoding ends in time."""

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldm.cli.main import run
from ldm.core.errors import DataError
from ldm.core.images import decode
from ldm.core.images.loader import ImageLoader, Preparation
from ldm.core.images.sources import open_source
from tests.support.ledger import Trials
from tests.support.swelling import LARGEST, containers, idx, idx_labels, pictures, weights

MOST = 300e6  # bytes above what the process held before
LONGEST = 5.0  # seconds of a processor, for one image
THREADS = 8


def swelled(act: Callable[[], int]) -> tuple[int, int, float]:
    """Run a function in a forked process; return its result, how much memory it took at most, and seconds of work."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        before = held()
        code = act()
        os.write(writing, f"{code} {peak() - before}".encode())
        os._exit(0)
    os.close(writing)
    _, status, used = os.wait4(child, 0)
    answer = os.read(reading, 100)
    os.close(reading)
    assert status == 0 and answer, status
    code, bytes_taken = map(int, answer.split())
    return code, bytes_taken, used.ru_utime + used.ru_stime


def held() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read_all(location: Path) -> int:
    """Read what lies at a path as training does, by many threads. Returns the exit code that it would have."""
    try:
        loader = ImageLoader(open_source(str(location)), Preparation(image_size=64, cache_bytes=1 << 22))
        for _ in loader.in_turn(64):
            pass
    except DataError as error:
        return error.exit_code
    return 0


def inspect(location: Path) -> int:
    return run(["data", "inspect", str(location), "--quiet"])


READERS = read_all, inspect


@pytest.fixture
def _many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("dataset", "loader", "reading"):
        monkeypatch.setattr(f"ldm.core.images.{module}.num_workers", lambda: THREADS)


@pytest.mark.promise("R28", quick=4, full=len(pictures()))
@pytest.mark.usefixtures("_many_threads")
def test_pictures_that_swell_take_less_than_300_mb_together_and_end_in_time(trials: Trials, tmp_path: Path) -> None:
    made = pictures()
    names = [*made] if trials.full else ["lossy.webp", "lossless-below.webp", "baseline.jpg", "scans.jpg"]
    for turn, (_, name) in enumerate(zip(trials, names, strict=True)):
        folder = tmp_path / name
        folder.mkdir()
        data = made[name]()
        assert len(data) < LARGEST, (name, len(data))
        for number in range(THREADS if len(data) < LARGEST // THREADS else max(2, LARGEST // len(data))):
            (folder / f"{number}{Path(name).suffix}").write_bytes(data)
        for reader in READERS if trials.full else READERS[turn % 2 :][:1]:
            code, most, seconds = swelled(lambda folder=folder, reader=reader: reader(folder))
            assert most < MOST, f"{name} took {most / 1e6:,.0f} MB"
            assert seconds < LONGEST * THREADS, f"{name} took {seconds:.1f} s"
            if reader is read_all:  # Where all images are copies, inspection says that they cannot be split.
                assert code == (0 if "below" in name or name in FITTING else 3), (name, code)


FITTING = (
    *("lossy.webp", "rgba-16.png", "grey-16.png", "one-strip.tiff", "baseline.jpg", "fax.tiff", "flat.avif"),
    *("bmps.zip", "pngs.zip", "pngs.tar", "twice-packed.zip", "images.npz", "columns.npz"),
)


@pytest.mark.promise("R28", quick=1, full=len(containers()))
@pytest.mark.usefixtures("_many_threads")
def test_archives_and_arrays_that_swell_take_less_than_300_mb(trials: Trials, tmp_path: Path) -> None:
    made = containers()
    names = [*made] if trials.full else ["bmps.zip"]
    for _, name in zip(trials, names, strict=True):
        path = tmp_path / name
        path.write_bytes(made[name]())
        assert path.stat().st_size < LARGEST, (name, path.stat().st_size)
        code, most, seconds = swelled(lambda path=path: read_all(path))
        assert most < MOST, f"{name} took {most / 1e6:,.0f} MB"
        assert seconds < 60, f"{name} took {seconds:.1f} s"
        assert code == (0 if name in FITTING else 3), (name, code)
        path.unlink()


@pytest.mark.promise("R28")
@pytest.mark.slow
def test_packed_idx_files_take_less_than_300_mb(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(idx(900, 1000))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx_labels(900))
    code, most, _ = swelled(lambda: read_all(tmp_path))
    assert code == 0 and most < MOST, most


@pytest.mark.promise("R28", quick=1, full=3)
def test_tensors_with_more_numbers_than_their_file_are_refused(
    trials: Trials, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for _, (name, make) in zip(trials, weights().items(), strict=False):
        path = tmp_path / name
        torch.save(make(), path)
        assert path.stat().st_size < LARGEST
        words = ["import", str(path), "--autoencoder", str(tmp_path), "--runs-dir", str(tmp_path / "runs")]
        code, most, _ = swelled(lambda words=words: run(words))
        assert code == 3 and most < MOST, (name, code, most)
        assert "more numbers than" in capfd.readouterr().err


def test_the_slowest_jpeg_that_is_allowed_ends_in_time() -> None:
    data = pictures()["scans-below.jpg"]()
    started = time.process_time()
    assert decode.decode_picture(data, "x.jpg").size == (4800, 4800)
    assert time.process_time() - started < LONGEST
