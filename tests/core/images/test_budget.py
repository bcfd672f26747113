"""The memory that decoding takes: counted in bytes, shared by threads, free again afterwards."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from ldm.core.errors import DataError
from ldm.core.images.budget import PER_BYTE, Budget, Unpacked, stored_bytes
from ldm.core.images.decode import decode
from tests.support.image_kinds import encoded


def test_threads_hold_no_more_than_the_budget_together_and_all_of_them_finish() -> None:
    budget, lock, held, most = Budget(100), threading.Lock(), [0], [0]

    def work(number: int) -> int:
        with budget.unit():
            for size in (10 + number % 30, 40):
                budget.take(size, 0, "x")
            with lock:
                held[0] += 50 + number % 30
                most[0] = max(most[0], held[0])
            time.sleep(0.001)
            with lock:
                held[0] -= 50 + number % 30
        return number

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(100))) == list(range(100))
    assert 50 <= most[0] <= 100


def test_what_is_in_proportion_to_the_file_is_free_and_more_than_all_threads_may_take_is_refused() -> None:
    budget = Budget(100)
    with budget.unit():
        budget.take(PER_BYTE * 1_000_000 + 100, 1_000_000, "photo.jpg")  # takes all of it
        with budget.unit():
            budget.take(PER_BYTE * 10, 10, "small.png")
        with pytest.raises(DataError, match=r"bomb\.png would take 0 MB of memory from 10 bytes"):
            budget.take(PER_BYTE * 10 + 101, 10, "bomb.png")
    with budget.unit():
        budget.take(100, 0, "next.png")


def test_an_error_gives_back_what_was_taken() -> None:
    budget = Budget(100)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), budget.unit():
            budget.take(100, 0, "x")
            raise ZeroDivisionError


def test_a_file_out_of_an_archive_counts_as_what_it_takes_there() -> None:
    content = Unpacked(b"1234", 2)
    assert content == b"1234" and isinstance(content, bytes)
    assert stored_bytes(content) == 2 and stored_bytes(b"1234") == 4


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (1, 128, 254)])
def test_transparency_is_laid_on_a_background_exactly_for_every_colour_and_alpha(
    background: tuple[int, int, int],
) -> None:
    colour, alpha = np.meshgrid(np.arange(256), np.arange(256))
    pixels = np.dstack([colour, colour, colour, alpha]).astype(np.uint8)
    found = decode(encoded(Image.fromarray(pixels, "RGBA"), "PNG"), "x.png", background)
    wanted = (alpha * colour)[..., None] + (255 - alpha)[..., None] * np.array(background)
    np.testing.assert_array_equal(found, (wanted + 127) // 255)


def test_16_bits_are_scaled_exactly_over_many_strips() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256).repeat(9, 0).repeat(4, 1)
    found = decode(encoded(Image.fromarray(values), "PNG"), "x.png")
    np.testing.assert_array_equal(found[..., 0], np.rint(values / 257))


def test_a_jpeg_of_hundreds_of_scans_is_refused_by_their_number() -> None:
    whole = encoded(Image.new("L", (64, 64), 7), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xc4", 0, whole.rindex(b"\xff\xda"))  # the tables of the last scan, and the scan
    many = whole[:last] + whole[last:-2] * 100 + whole[-2:]
    with pytest.raises(DataError, match=r"x\.jpg has 10\d scans, like a bomb for decoders"):
        decode(many, "x.jpg")
    assert decode(whole, "x.jpg").shape == (64, 64, 3)
    assert Image.open(io.BytesIO(many)).size == (64, 64)
