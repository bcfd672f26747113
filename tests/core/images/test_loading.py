"""Batches are the decoded images at the asked indices, whatever the memory, and broken files are accounted for."""

import threading

import numpy as np
import pytest
from PIL import Image

from ldm.core.errors import DataError
from ldm.core.images.decode import to_training
from ldm.core.images.loader import ImageLoader, Preparation
from ldm.core.images.sources import open_source


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(150):
        folder = root / ("cat", "dog", "eel")[number % 3]
        folder.mkdir(exist_ok=True)
        shape = (*rng.integers(8, 40, 2), 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{number:03d}.png")
    return root


@pytest.fixture
def broken(photos, tmp_path):
    for folder in ("cat", "dog", "eel"):
        (tmp_path / folder).mkdir()
        for file in (photos / folder).iterdir():
            (tmp_path / folder / file.name).write_bytes(file.read_bytes())
    (tmp_path / "dog" / "004.png").write_bytes(b"not a picture")
    return tmp_path


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_a_batch_is_the_images_at_its_indices(photos, cache_bytes):
    source = open_source(str(photos))
    loader = ImageLoader(source, Preparation(16, cache_bytes=cache_bytes))
    indices = np.array([149, 3, 3, 77])
    batch = loader.batch(indices)
    assert batch.shape == (4, 16, 16, 3) and batch.dtype == np.uint8
    for image, index in zip(batch, indices, strict=True):
        np.testing.assert_array_equal(image, to_training(source.image(index), 16))
    loader.close()


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_batches_come_in_order_with_none_lost(photos, cache_bytes):
    loader = ImageLoader(open_source(str(photos)), Preparation(8, cache_bytes=cache_bytes))
    wanted = [np.arange(start, min(start + 32, 150)) for start in range(0, 150, 32)]
    found = list(loader.batches(wanted))
    assert [len(batch) for batch in found] == [32, 32, 32, 32, 22]
    np.testing.assert_array_equal(np.concatenate(found), loader.batch(np.arange(150)))
    loader.close()


def test_in_turn_gives_every_image_once_or_the_chosen_ones_in_their_order(photos):
    loader = ImageLoader(open_source(str(photos)), Preparation(8))
    indices, images = zip(*loader.in_turn(32), strict=True)
    assert np.concatenate(indices).tolist() == list(range(150))
    np.testing.assert_array_equal(np.concatenate(images), loader.batch(np.arange(150)))
    (chosen, pixels), *rest = loader.in_turn(8, np.array([77, 3]))
    assert not rest and chosen.tolist() == [77, 3]
    np.testing.assert_array_equal(pixels, loader.batch(np.array([77, 3])))
    loader.close()


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_skipping_leaves_out_exactly_the_broken_images(photos, broken, cache_bytes):
    whole = open_source(str(photos))
    prepare = Preparation(8, on_error="skip", cache_bytes=cache_bytes)
    loader = ImageLoader(open_source(str(broken)), prepare)
    assert [name for name, _ in loader.skipped] == ["dog/004.png"] and "004.png" in loader.skipped[0][1]
    kept = [index for index, name in enumerate(whole.names) if name != "dog/004.png"]
    assert loader.source.names == [whole.names[index] for index in kept] and len(loader) == 149
    assert loader.labels.tolist() == whole.labels[kept].tolist()
    expected = np.stack([to_training(whole.image(index), 8) for index in kept])
    np.testing.assert_array_equal(loader.batch(np.arange(149)), expected)
    loader.close()


def test_stopping_names_the_broken_image_early_with_a_cache_and_in_its_turn_without(broken):
    with pytest.raises(DataError, match=r"dog/004\.png"):
        ImageLoader(open_source(str(broken)), Preparation(8))
    loader = ImageLoader(open_source(str(broken)), Preparation(8, cache_bytes=0))
    loader.batch(np.arange(20))
    with pytest.raises(DataError, match=r"dog/004\.png"):
        loader.batch(np.array([loader.source.names.index("dog/004.png")]))
    loader.close()


def test_more_than_one_percent_of_broken_images_stops_the_work(broken):
    (broken / "eel" / "005.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 150 images.*at most 1% are skipped \(data\.max_skipped\)") as caught:
        ImageLoader(open_source(str(broken)), Preparation(8, on_error="skip"))
    assert "eel/005.png is empty" in caught.value.message and "remove" not in caught.value.message
    loader = ImageLoader(open_source(str(broken)), Preparation(8, on_error="skip", max_skipped=0.02))
    assert len(loader.skipped) == 2
    loader.close()


def test_a_class_of_which_nothing_is_left_is_named(broken):
    (broken / "fox").mkdir()
    (broken / "dog" / "004.png").rename(broken / "fox" / "004.png")
    with pytest.raises(DataError, match="fox"):
        ImageLoader(open_source(str(broken)), Preparation(8, on_error="skip"))


def test_held_out_images_without_every_class_may_lose_one_more(broken):
    whole = open_source(str(broken))
    names = [name for name in whole.names if name.startswith("cat")] + ["dog/004.png"]
    held_out = whole.subset([whole.names.index(name) for name in names])
    loader = ImageLoader(held_out, Preparation(8, on_error="skip", max_skipped=0.02))
    assert [name for name, _ in loader.skipped] == ["dog/004.png"] and len(loader) == 50
    loader.close()


def test_progress_reaches_the_end(photos):
    seen = []
    loader = ImageLoader(open_source(str(photos)), Preparation(8), lambda done, total: seen.append((done, total)))
    assert seen == [(64, 150), (128, 150), (150, 150)]
    loader.close()


def test_the_background_reaches_transparent_images(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "1.png")
    loader = ImageLoader(open_source(str(tmp_path)), Preparation(4, background=(1, 2, 3)))
    assert loader.batch(np.array([0]))[0, 0, 0].tolist() == [1, 2, 3]
    loader.close()


def test_an_abandoned_stream_leaves_no_thread_behind(photos):
    before = threading.active_count()
    loader = ImageLoader(open_source(str(photos)), Preparation(8, cache_bytes=0))
    stream = loader.batches(np.arange(150).reshape(-1, 10))
    next(stream)
    stream.close()
    loader.close()
    assert threading.active_count() == before


def test_grey_squares_are_the_bytes_of_grey_files(tmp_path):
    (tmp_path / "a").mkdir()
    grey = np.random.default_rng(0).integers(0, 256, (4, 12, 12), dtype=np.uint8)
    for number, pixels in enumerate(grey):
        Image.fromarray(pixels).save(tmp_path / "a" / f"{number}.png")
        Image.fromarray(pixels).convert("RGB").save(tmp_path / "a" / f"rgb-{number}.png")
    loader = ImageLoader(open_source(str(tmp_path)), Preparation(12, channels=1))
    np.testing.assert_array_equal(loader.batch(np.arange(8))[..., 0], np.concatenate([grey, grey]))


def test_see_through_squares_keep_alpha_and_show_the_background_where_it_is_0(tmp_path):
    pixels = np.full((6, 12, 4), (250, 10, 20, 255), np.uint8)
    pixels[:, 4:8, 3], pixels[:, 8:] = 128, (9, 9, 9, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.savez(tmp_path / "b.npz", images=pixels[None])
    loader = ImageLoader(open_source(str(tmp_path)), Preparation(12, (1, 2, 3), "pad", channels=4))
    (padded,) = loader.batch(np.arange(1))
    np.testing.assert_array_equal(padded[3:9, :8], pixels[:, :8])
    assert (padded[3:9, 8:] == (1, 2, 3, 0)).all() and (padded[[0, 1, 2, 9, 10, 11]] == (1, 2, 3, 0)).all()
    of_arrays = ImageLoader(open_source(str(tmp_path / "b.npz")), Preparation(12, (1, 2, 3), "pad", channels=4))
    np.testing.assert_array_equal(of_arrays.batch(np.arange(1))[0], padded)
