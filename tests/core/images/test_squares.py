"""Decoded images on the disk are what decoding gives; they are bounded, and checked before they are used."""

from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from ldm.core.errors import DataError
from ldm.core.images import loader as loading
from ldm.core.images.loader import ImageLoader, Preparation
from ldm.core.images.sources import open_source
from ldm.core.images.squares import Squares

NUM, SIZE = 40, 16


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(NUM):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return tmp_path / "photos"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the images that are brought to squares."""
    done: list[int] = []
    original = loading.to_training

    def counted(*args: object) -> np.ndarray:
        done.append(1)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "to_training", counted)
    return done


def squares(folder: Path, most_bytes: int = 1 << 30, background: str = "white") -> Squares:
    return Squares(folder, ["adm", background], SIZE, most_bytes)


def loaded(photos: Path, on_disk: Squares | None, cache_bytes: int = 1 << 30) -> np.ndarray:
    source = open_source(str(photos))
    source.content_hashes()
    loader = ImageLoader(source, Preparation(SIZE, cache_bytes=cache_bytes), on_disk=on_disk)
    (images,) = loader.batches([np.arange(len(loader))])
    loader.close()
    return images


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_the_bytes_are_the_same_with_and_without_and_nothing_is_decoded_twice(photos, tmp_path, decoded, cache_bytes):
    plain = loaded(photos, None)
    np.testing.assert_array_equal(loaded(photos, squares(tmp_path / "kept"), cache_bytes), plain)
    decoded.clear()
    np.testing.assert_array_equal(loaded(photos, squares(tmp_path / "kept"), cache_bytes), plain)
    assert not decoded


def test_squares_are_found_by_content_wherever_the_file_is_and_an_edited_one_is_decoded(photos, tmp_path, decoded):
    loaded(photos, squares(tmp_path / "kept"))
    photos.rename(tmp_path / "moved")
    (tmp_path / "moved" / "a" / "000.png").rename(tmp_path / "moved" / "a" / "renamed.png")
    Image.fromarray(np.zeros((20, 20, 3), dtype=np.uint8)).save(tmp_path / "moved" / "b" / "001.png")
    decoded.clear()
    images = loaded(tmp_path / "moved", squares(tmp_path / "kept"))
    assert len(decoded) == 1
    np.testing.assert_array_equal(images, loaded(tmp_path / "moved", None))


def test_another_preparation_finds_nothing(photos, tmp_path):
    loaded(photos, squares(tmp_path / "kept"))
    assert len(squares(tmp_path / "kept")) == NUM
    assert len(squares(tmp_path / "kept", background="black")) == 0
    assert len(Squares(tmp_path / "kept", ["adm", "white"], SIZE + 1, 1 << 30)) == 0


def test_damage_anywhere_is_noticed_and_decoded_again(photos, tmp_path):
    plain, kept = loaded(photos, None), tmp_path / "kept"
    loaded(photos, squares(kept))
    (path,) = kept.iterdir()
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for place in [0, 16, 24, *generator.integers(32, len(whole), 40)]:
        harmed = bytearray(whole)
        harmed[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(harmed)
        np.testing.assert_array_equal(loaded(photos, squares(kept, 0)), plain)
        path.write_bytes(whole)
    for length in (0, 10, 32, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        on_disk = squares(kept)
        np.testing.assert_array_equal(loaded(photos, on_disk), plain)
        for left in kept.iterdir():
            left.unlink()


def test_a_square_put_under_the_name_of_another_image_is_not_taken(photos, tmp_path):
    loaded(photos, squares(tmp_path / "kept"))
    (path,) = (tmp_path / "kept").iterdir()
    data = bytearray(path.read_bytes())
    data[32:64], data[64:96] = data[64:96], data[32:64]  # exchange the names of the first two
    path.write_bytes(data)
    np.testing.assert_array_equal(loaded(photos, squares(tmp_path / "kept")), loaded(photos, None))


def test_all_files_together_stay_below_the_limit_and_the_oldest_make_room(photos, tmp_path):
    area, kept = SIZE * SIZE * 3, tmp_path / "kept"
    loaded(photos, squares(kept, background="black"))
    limit = 45 * (area + 48) + 64
    loaded(photos, squares(kept, limit))
    assert len(squares(kept)) == NUM and len(squares(kept, background="black")) == 0
    assert sum(path.stat().st_size for path in kept.iterdir()) <= limit
    for path in kept.iterdir():
        path.unlink()
    np.testing.assert_array_equal(loaded(photos, squares(kept, 5 * area)), loaded(photos, None))
    assert not [*kept.iterdir()]


def test_a_folder_that_cannot_be_written_stops_nothing(photos, tmp_path):
    (tmp_path / "kept").write_text("in the way")
    on_disk = squares(tmp_path / "kept")
    np.testing.assert_array_equal(loaded(photos, on_disk), loaded(photos, None))
    assert on_disk.failure


def test_what_cannot_be_decoded_is_never_kept(photos, tmp_path):
    (photos / "a" / "000.png").write_bytes(b"not an image")
    for _ in range(2):
        with pytest.raises(DataError, match="cannot be read"):
            loaded(photos, squares(tmp_path / "kept"))


def test_threads_may_add_and_read_at_once(tmp_path):
    on_disk = squares(tmp_path / "kept")
    digests = [np.random.default_rng(number).bytes(32) for number in range(200)]
    pixels = [
        np.random.default_rng([1, number]).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for number in range(200)
    ]

    def work(start: int) -> None:
        for number in range(start, 200, 4):
            on_disk.put(digests[number], pixels[number])
            if number % 20 == 0:
                on_disk.flush()
            found = on_disk.get(digests[number])
            assert found is None or (found == pixels[number]).all()

    threads = [Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    on_disk.flush()
    again = squares(tmp_path / "kept")
    assert all((again.get(digest) == square).all() for digest, square in zip(digests, pixels, strict=True))
