"""Every sample is worked on once, its result in its place, and what fails stays in its place too."""

import threading

import numpy as np
import pytest

from ldm.core.errors import DataError
from ldm.core.images.dataset import image_source
from ldm.core.images.decode import decode
from ldm.core.images.reading import read_each


def files(count: int, broken: tuple[int, ...] = ()):
    def fetch(row: int) -> bytes:
        if row in broken:
            raise DataError(f"{row} is broken")
        return b"%d" % row

    return image_source("here", [f"{number:05d}.png" for number in range(count)], fetch, None)


@pytest.mark.parametrize("count", [1, 31, 32, 700])
def test_results_come_in_order_with_errors_in_their_places(count):
    broken = (0, 5, 640)
    results = list(read_each(files(count, broken), lambda index, content: (index, int(content))))
    assert len(results) == count
    for index, result in enumerate(results):
        if index in broken:
            assert isinstance(result, DataError) and result.message == f"{index} is broken"
        else:
            assert result == (index, index)


def test_errors_of_the_work_are_results_too():
    source = files(3)
    results = list(read_each(source, lambda index, content: decode(content, source.names[index])))
    assert [isinstance(result, DataError) for result in results] == [True] * 3 and "00001.png" in str(results[1])


def test_what_was_read_need_not_be_read_again_for_its_hash():
    reads: list[int] = []

    def fetch(row: int) -> bytes:
        reads.append(row)
        return b"%d" % row

    source = image_source("here", [f"{number}.png" for number in range(100)], fetch, None)
    list(read_each(source, lambda index, content: None))
    before = len(reads)
    fresh = files(100).content_hashes()
    assert sorted(source.content_hashes()) == sorted(fresh) and len(reads) == before


def test_arrays_are_worked_on_by_the_caller_and_files_by_several():
    pixels = np.zeros((50, 4, 4), dtype=np.uint8)
    arrays = image_source("here", [f"{number}" for number in range(50)], lambda row: pixels[row], None)
    assert set(read_each(arrays, lambda index, content: threading.current_thread().name)) == {"MainThread"}
    assert "MainThread" not in set(read_each(files(50), lambda index, content: threading.current_thread().name))


def test_whoever_stops_listening_leaves_nothing_running():
    done: list[int] = []
    results = read_each(files(5000), lambda index, content: done.append(index))
    next(results)
    results.close()
    assert len(done) < 5000
