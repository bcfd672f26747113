"""The same images, kept in any of the ways that are known, are the same samples."""

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.core.errors import ConfigError, DataError
from ldm.core.images.sources import open_source, open_splits

CLASSES = ("cat", "dog", "eel")
PIXELS = np.random.default_rng(5).integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
LABELS = np.repeat(np.arange(3), 4)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def class_folders(root: Path, pixels=PIXELS, labels=LABELS, classes=CLASSES) -> Path:
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        file = root / classes[label] / f"{index:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(image))
    return root


def zipped(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, prefix + str(file.relative_to(folder)))
    return path


def tarred(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def webdataset(path: Path, rows, label=lambda i: {"cls": str(LABELS[i]).encode()}) -> Path:
    members: dict[str, bytes] = {}
    for i in rows:
        members[f"{i:04d}.png"] = png(PIXELS[i])
        members.update({f"{i:04d}.{suffix}": data for suffix, data in label(i).items()})
    return tarred(path, members)


def idx(path: Path, array: np.ndarray) -> None:
    data = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def in_folders(tmp: Path) -> str:
    return str(class_folders(tmp / "photos"))


def in_a_zip(tmp: Path) -> str:
    return str(zipped(class_folders(tmp / "photos"), tmp / "photos.zip"))


def in_a_wrapped_zip(tmp: Path) -> str:
    return str(zipped(class_folders(tmp / "photos"), tmp / "photos.zip", "my-photos/"))


def in_a_plain_tar(tmp: Path) -> str:
    class_folders(tmp / "photos")
    with tarfile.open(tmp / "photos.tar", "w") as archive:
        archive.add(tmp / "photos", ".")
    return str(tmp / "photos.tar")


def in_one_tar_by_name(tmp: Path) -> str:
    return str(webdataset(tmp / "one.tar", range(12), lambda i: {"cls": CLASSES[LABELS[i]].encode()}))


def in_a_folder_of_tars(tmp: Path) -> str:
    (tmp / "shards").mkdir()
    (tmp / "shards" / "classes.json").write_text(json.dumps(CLASSES))
    webdataset(tmp / "shards" / "a-000.tar", range(7))
    webdataset(tmp / "shards" / "a-001.tar", range(7, 12), lambda i: {"json": b'{"label": %d}' % LABELS[i]})
    return str(tmp / "shards")


def in_tars_by_braces(tmp: Path) -> str:
    return in_a_folder_of_tars(tmp) + "/a-{000..001}.tar"


def in_an_npz(tmp: Path) -> str:
    np.savez(tmp / "a.npz", images=PIXELS, labels=LABELS, class_names=np.array(CLASSES))
    return str(tmp / "a.npz")


def in_a_channels_first_npz(tmp: Path) -> str:
    np.savez_compressed(tmp / "a.npz", arr_0=PIXELS.transpose(0, 3, 1, 2), arr_1=LABELS[:, None], label_names=CLASSES)
    return str(tmp / "a.npz")


WAYS = [
    *(in_folders, in_a_zip, in_a_wrapped_zip, in_a_plain_tar, in_one_tar_by_name, in_a_folder_of_tars),
    *(in_tars_by_braces, in_an_npz, in_a_channels_first_npz),
]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_keeping_images_gives_the_same_samples(way, tmp_path):
    source = open_source(way(tmp_path))
    assert source.class_names == CLASSES and source.labelled and len(source) == 12
    assert source.labels.dtype == np.int64 and source.labels.tolist() == LABELS.tolist()
    assert len(set(source.names)) == 12
    for i in range(12):
        np.testing.assert_array_equal(source.image(i), PIXELS[i])


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_idx_pair_is_read_from_its_folder_and_from_its_images_file(tmp_path, suffix):
    idx(tmp_path / f"train-images-idx3-ubyte{suffix}", PIXELS[:, :, :, 0])
    idx(tmp_path / f"train-labels-idx1-ubyte{suffix}", LABELS)
    for location in (tmp_path, tmp_path / f"train-images-idx3-ubyte{suffix}"):
        source = open_source(str(location))
        assert source.class_names == ("0", "1", "2") and source.labels.tolist() == LABELS.tolist()
        np.testing.assert_array_equal(source.image(7), np.repeat(PIXELS[7, :, :, :1], 3, axis=2))


def test_the_fingerprint_knows_contents_names_and_labels_and_nothing_else(tmp_path):
    first = open_source(str(class_folders(tmp_path / "a"))).fingerprint()
    zipped(tmp_path / "a", tmp_path / "a.zip")
    assert open_source(str(tmp_path / "a.zip")).fingerprint() == first
    (tmp_path / "a" / ".DS_Store").write_bytes(b"x")
    assert open_source(str(tmp_path / "a")).fingerprint() == first
    (tmp_path / "a" / "cat" / "0000.png").rename(tmp_path / "a" / "dog" / "0000.png")
    assert open_source(str(tmp_path / "a")).fingerprint() != first
    (tmp_path / "a" / "dog" / "0000.png").rename(tmp_path / "a" / "cat" / "0000.png")
    (tmp_path / "a" / "cat" / "0000.png").write_bytes(png(PIXELS[5]))
    assert open_source(str(tmp_path / "a")).fingerprint() != first


def test_a_flat_folder_and_a_flat_zip_are_one_class_called_all(tmp_path):
    class_folders(tmp_path / "photos", classes=(".", ".", "."))
    for location in (tmp_path / "photos", zipped(tmp_path / "photos", tmp_path / "flat.zip")):
        source = open_source(str(location))
        assert source.class_names == ("all",) and not source.labelled and source.labels.tolist() == [0] * 12


def test_one_class_is_enough(tmp_path):
    source = open_source(str(class_folders(tmp_path / "p", labels=np.zeros(12, int))))
    assert source.class_names == ("cat",) and source.labelled


def test_hidden_files_are_passed_over_and_other_files_are_listed(tmp_path):
    root = class_folders(tmp_path / "p")
    for litter in (".DS_Store", "cat/Thumbs.db", "cat/._0001.png", "__MACOSX/cat/0001.png", ".hidden/1.png"):
        (root / litter).parent.mkdir(parents=True, exist_ok=True)
        (root / litter).write_bytes(b"x")
    (root / "README.txt").write_text("mine")
    (root / "cat" / "notes.json").write_text("{}")
    for location in (root, zipped(root, tmp_path / "p.zip")):
        source = open_source(str(location))
        assert len(source) == 12 and sorted(source.ignored) == ["README.txt", "cat/notes.json"]


def test_numbered_classes_are_in_the_order_of_their_numbers(tmp_path):
    names = tuple(str(number) for number in range(11))
    source = open_source(str(class_folders(tmp_path / "p", PIXELS[:11], np.arange(11), names)))
    assert source.class_names == names
    assert [source.class_names[label] for label in source.labels] == [name.split("/")[0] for name in source.names]


def test_classes_json_names_the_folders(tmp_path):
    root = class_folders(tmp_path / "p" / "train", classes=("n01", "n02", "n03"))
    table = {"n01": [0, "tench"], "n02": "crane", "n03": "crane"}
    (tmp_path / "p" / "classes.json").write_text(json.dumps(table))
    source = open_source(str(tmp_path / "p"))
    assert source.class_names == ("tench", "crane (n02)", "crane (n03)") and source.ignored == ()
    (root / "classes.json").write_text('{"n01": 7}')
    with pytest.raises(DataError, match=r"classes\.json"):
        open_source(str(tmp_path / "p"))


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
@pytest.mark.parametrize("archive", [False, True])
def test_parts_are_found_by_their_folders(tmp_path, name, archive):
    class_folders(tmp_path / "p" / "train", PIXELS[:8], LABELS[:8])
    class_folders(tmp_path / "p" / name, PIXELS[4:7], LABELS[4:7])
    location = str(zipped(tmp_path / "p", tmp_path / "p.zip", "wrapper/") if archive else tmp_path / "p")
    train, val = open_splits(location)
    assert (len(train), len(val)) == (8, 3)
    assert train.class_names == val.class_names == ("cat", "dog") and val.labels.tolist() == [1, 1, 1]
    assert len(open_source(location)) == 8


def test_a_class_called_train_is_a_class(tmp_path):
    source = open_source(str(class_folders(tmp_path / "p", classes=("car", "train", "plane"))))
    assert set(source.class_names) == {"car", "train", "plane"}


def test_a_validation_class_that_training_lacks_is_refused(tmp_path):
    class_folders(tmp_path / "train", PIXELS[:8], LABELS[:8])
    class_folders(tmp_path / "val", PIXELS[8:], LABELS[8:])
    with pytest.raises(DataError, match="eel"):
        open_splits(str(tmp_path))
    with pytest.raises(DataError, match="eel"):
        open_splits(str(tmp_path / "train"), str(tmp_path / "val"))


def test_tars_named_by_part_and_npz_named_by_part(tmp_path):
    (tmp_path / "t").mkdir()
    webdataset(tmp_path / "t" / "train-00.tar", range(12))
    webdataset(tmp_path / "t" / "val-00.tar", range(3, 6))
    names = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(tmp_path / "m.npz", **dict(zip(names, (PIXELS, LABELS, PIXELS[3:6], LABELS[3:6]), strict=True)))
    for location in (tmp_path / "t", tmp_path / "m.npz"):
        train, val = open_splits(str(location))
        assert (len(train), len(val)) == (12, 3) and val.labels.tolist() == [0, 1, 1]
        np.testing.assert_array_equal(val.image(1), PIXELS[4])


def test_held_out_images_need_not_show_every_class_and_training_images_do(tmp_path):
    labels = np.arange(12) % 4
    held_out = np.array([0, 1, 3])
    names = ("train_images", "train_labels", "val_images", "val_labels")
    np.savez(tmp_path / "m.npz", **dict(zip(names, (PIXELS, labels, PIXELS[:3], held_out), strict=True)))
    np.savez(tmp_path / "train.npz", images=PIXELS, labels=labels)
    np.savez(tmp_path / "val.npz", images=PIXELS[:3], labels=held_out)
    for where in ((tmp_path / "m.npz", None), (tmp_path / "train.npz", str(tmp_path / "val.npz"))):
        train, val = open_splits(str(where[0]), where[1])
        assert train.class_names == val.class_names == tuple("0123") and val.labels.tolist() == [0, 1, 3]
    with pytest.raises(DataError, match="label 3 of 000002 is the greatest, yet no image has label 2"):
        open_source(str(tmp_path / "val.npz"))
    np.savez(tmp_path / "val.npz", images=PIXELS[:3], labels=np.array([0, 1, 10**15]))
    with pytest.raises(DataError, match="no image has label 2"):
        open_splits(str(tmp_path / "train.npz"), str(tmp_path / "val.npz"))


def test_two_names_of_one_part_are_refused_and_no_part_is_dropped(tmp_path):
    for top in ("train", "val", "valid"):
        (tmp_path / "t" / top).mkdir(parents=True)
        webdataset(tmp_path / "t" / top / "0.tar", range(12))
    (tmp_path / "i").mkdir()
    for prefix in ("train", "val", "valid"):
        idx(tmp_path / "i" / f"{prefix}-images-idx3-ubyte", PIXELS[:, :, :, 0])
        idx(tmp_path / "i" / f"{prefix}-labels-idx1-ubyte", LABELS)
    for folder in ("t", "i"):
        with pytest.raises(DataError, match="for one part: val and valid"):
            open_splits(str(tmp_path / folder))


def test_idx_files_whose_names_end_in_the_part_and_beside_their_gz_are_parts(tmp_path):
    for prefix, chosen in {"emnist-digits-train": slice(12), "emnist-digits-test": slice(3, 6)}.items():
        for suffix in ("", ".gz"):
            idx(tmp_path / f"{prefix}-images-idx3-ubyte{suffix}", PIXELS[chosen, :, :, 0])
            idx(tmp_path / f"{prefix}-labels-idx1-ubyte{suffix}", LABELS[chosen])
    train, test = open_splits(str(tmp_path))
    assert (len(train), len(test)) == (12, 3) and test.labels.tolist() == [0, 1, 1]


def test_classes_json_above_folders_of_tars_names_the_classes_of_all_parts(tmp_path):
    for part, rows in {"train": range(12), "val": range(3, 6)}.items():
        (tmp_path / "t" / part).mkdir(parents=True)
        webdataset(tmp_path / "t" / part / "0.tar", rows)
    (tmp_path / "classes.json").write_text('["above", "what was", "given"]')
    assert open_source(str(tmp_path / "t")).class_names == ("0", "1", "2")
    (tmp_path / "t" / "classes.json").write_text(json.dumps(CLASSES))
    train, val = open_splits(str(tmp_path / "t"))
    assert train.class_names == val.class_names == CLASSES and val.labels.tolist() == [0, 1, 1]
    (tmp_path / "t" / "train" / "classes.json").write_text('["a", "b", "c"]')
    assert open_source(str(tmp_path / "t")).class_names == ("a", "b", "c")


def test_built_in_mnist_is_ten_thousand_and_one_thousand_balanced_digits(shared, tmp_path):
    train, test = open_splits("mnist")
    assert train.class_names == test.class_names == tuple("0123456789")
    assert np.bincount(train.labels).tolist() == [1000] * 10 and np.bincount(test.labels).tolist() == [100] * 10
    with tarfile.open(shared / "data" / "mnist.tar") as archive:
        digit = sorted(name for name in archive.getnames() if "/test/7/" in name)[42]
        file = archive.extractfile(digit)
        expected = np.asarray(Image.open(file))
    np.testing.assert_array_equal(test.image(42 * 10 + 7)[:, :, 0], expected)


def test_built_in_mnist_is_small_and_known():
    folder = Path(open_splits.__code__.co_filename).parent / "builtin" / "mnist"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4e6
    assert open_source("mnist").fingerprint() == open_source("builtin:mnist").fingerprint()


def test_a_name_with_two_meanings_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "mnist")
    with pytest.raises(ConfigError, match="builtin:mnist"):
        open_source("mnist")
    assert open_source("./mnist").class_names == CLASSES and len(open_source("builtin:mnist")) == 10_000


def test_as_many_samples_come_out_as_strange_names_went_in(tmp_path):
    stems = [b"plain", b"\xff\xfe not utf-8", b"new\nline", "😀".encode(), "é".encode(), "e\u0301".encode(), b"-rf"]
    stems += [b"x" * 251, b"dots.in.the.stem", b"dots.in.the", b" ", b"%s{0}", b"back\\slash"]
    folder = os.fsencode(tmp_path / "p" / "cat")
    os.makedirs(folder)  # noqa: PTH103 (names are bytes here)
    for number, stem in enumerate(stems):
        with open(os.path.join(folder, stem + b".png"), "wb") as file:  # noqa: PTH123, PTH118
            file.write(png(np.full((2, 2, 3), number, dtype=np.uint8)))
    with open(os.path.join(folder, b"plain.PNG"), "wb") as file:  # noqa: PTH123, PTH118
        file.write(png(np.full((2, 2, 3), len(stems), dtype=np.uint8)))
    source = open_source(str(tmp_path / "p"))
    assert len(set(source.names)) == len(stems) + 1
    assert {int(source.image(i)[0, 0, 0]) for i in range(len(source))} == set(range(len(stems) + 1))
    assert len(source.fingerprint()) == 64
    members = {}
    for number, stem in enumerate(stems):
        members[os.fsdecode(stem) + ".png"] = png(np.full((2, 2, 3), number, dtype=np.uint8))
        members[os.fsdecode(stem) + ".cls"] = b"0"
    assert len(open_source(str(tarred(tmp_path / "p.tar", members)))) == len(stems)


def test_other_fields_of_a_webdataset_sample_are_not_samples(tmp_path):
    members = {"1.jpg": png(PIXELS[0]), "1.cls": b"0\n", "1.seg.png": png(PIXELS[1]), "1.txt": b"a cat"}
    source = open_source(str(tarred(tmp_path / "a.tar", members)))
    assert source.names == ["1.jpg"] and [*source.ignored] == ["1.seg.png"]
