"""Data that lies, loops or carries code: refused by name, in time, with nothing run and nothing written."""

import io
import os
import pickle
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.core.errors import DataError
from ldm.core.images.sources import open_source, open_splits


def png(value=7, size=4):
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Trap:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **fields) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("name", ["../evil.png", "cat/../../evil.png", "/tmp/evil.png", "C:\\evil.png", "..\\evil.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_of_an_archive_are_refused(tmp_path, name, kind):
    path = tmp_path / "in" / f"a.{kind}"
    path.parent.mkdir()
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("cat/1.png", png())
            archive.writestr(zipfile.ZipInfo(name), png())
    else:
        with tarfile.open(path, "w") as archive:
            add(archive, "cat/1.png", png())
            add(archive, name, png())
    with pytest.raises(DataError, match=r"a\.(zip|tar).*leads out"):
        open_source(str(path))
    assert [file.name for file in tmp_path.rglob("*")] == ["in", f"a.{kind}"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "1.png", png())
        add(archive, "2.png", type=kind, linkname="/etc/passwd")
    with pytest.raises(DataError, match=r"2\.png is a link or a special file"):
        open_source(str(tmp_path / "a.tar"))


@pytest.mark.parametrize(
    "location", ["pipe:touch TRAP", "pipe:touch TRAP; cat a.tar", "http://x.example/a.tar", "s3://b/a"]
)
def test_commands_and_addresses_are_never_followed(tmp_path, monkeypatch, location):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="not a local file"):
        open_source(location)
    with pytest.raises(DataError):
        open_source("{pipe:touch TRAP,a.tar}")
    assert list(tmp_path.iterdir()) == []


def test_python_objects_in_an_npz_are_never_unpickled(tmp_path):
    trap = tmp_path / "TRAP"
    objects = np.array([Trap(trap)], dtype=object)
    np.savez(tmp_path / "a.npz", images=objects, labels=np.zeros(1, int))
    np.savez(tmp_path / "b.npz", images=np.zeros((1, 2, 2), np.uint8), labels=objects)
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("images.npy", pickle.dumps(Trap(trap)))
    for name in "abc":
        with pytest.raises(DataError, match=rf"{name}\.npz"):
            open_source(str(tmp_path / f"{name}.npz"))
    assert not trap.exists()


def test_headers_that_claim_too_much_are_refused_before_memory_is_taken(tmp_path):
    (tmp_path / "x-images-idx3-ubyte").write_bytes(struct.pack(">HBBIII", 0, 8, 3, 2**31, 1000, 1000))
    (tmp_path / "x-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, 2**31))
    with pytest.raises(DataError, match="holds less than"):
        open_source(str(tmp_path))
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 1000, 1000)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", buffer.getvalue() + b"x")
    with pytest.raises(DataError, match="header claims"):
        open_source(str(tmp_path / "a.npz"))


def test_loops_dangling_links_and_pipes_are_named_in_time(tmp_path):
    start = time.monotonic()
    makers = {
        "loop": lambda p: (p / "cat" / "again").symlink_to(p),
        "parent": lambda p: (p / "cat" / "up").symlink_to("/"),
        "itself": lambda p: (p / "cat" / "itself.png").symlink_to(p / "cat" / "itself.png"),
        "dangling": lambda p: (p / "cat" / "gone.png").symlink_to("/nowhere/at/all.png"),
        "twice": lambda p: (p / "dog").symlink_to(p / "cat"),
        "fifo": lambda p: os.mkfifo(p / "cat" / "pipe.png"),
    }
    named = {"loop": "again", "parent": "up", "itself": "itself.png", "dangling": "gone.png", "twice": "dog"}
    for kind, make in makers.items():
        put(tmp_path / kind / "cat" / "1.png", png())
        make(tmp_path / kind)
        with pytest.raises(DataError, match=named.get(kind, "pipe.png")):
            open_source(str(tmp_path / kind))
    assert time.monotonic() - start < 5


def test_links_out_of_the_root_are_followed_and_counted(tmp_path):
    put(tmp_path / "store" / "a.png", png(1))
    put(tmp_path / "store" / "b.png", png(2))
    put(tmp_path / "p" / "cat" / "1.png", png(3))
    (tmp_path / "p" / "cat" / "2.png").symlink_to(tmp_path / "store" / "a.png")
    (tmp_path / "p" / "dog").symlink_to(tmp_path / "store")
    source = open_source(str(tmp_path / "p"))
    assert source.names == ["cat/1.png", "cat/2.png", "dog/a.png", "dog/b.png"]


@pytest.mark.parametrize(
    ("label", "said"), [(b"-1", "-1"), (b"1000000", "1000000"), (b"", "no label"), (b"2", "label 2")]
)
def test_wrong_labels_are_named(tmp_path, label, said):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for key, text in (("0", b"0"), ("1", b"1"), ("2", b"1"), ("3", label)):
            add(archive, f"{key}.png", png())
            add(archive, f"{key}.cls", text)
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    with pytest.raises(DataError, match=said) as caught:
        open_source(str(tmp_path / "a.tar"))
    assert "3." in str(caught.value) and caught.value.exit_code == 3
    (tmp_path / "classes.json").unlink()
    if label != b"2":  # without a list of names, 2 is the third class
        with pytest.raises(DataError, match=r"3\."):
            open_source(str(tmp_path / "a.tar"))


def test_a_missing_label_is_named(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "1.png", png())
        add(archive, "1.cls", b"0")
        add(archive, "2.png", png())
    with pytest.raises(DataError, match=r"2\.png has no label"):
        open_source(str(tmp_path / "a.tar"))


def test_labels_that_do_not_fit_the_arrays_are_named(tmp_path):
    for number, labels in enumerate(([0, 1], [0, 1, -1], [0, 1, 10**6], [0.0, 1.0, 1.0], [0, 0, 2])):
        np.savez(tmp_path / f"{number}.npz", images=np.zeros((3, 2, 2), np.uint8), labels=np.array(labels))
        with pytest.raises(DataError, match=rf"{number}\.npz"):
            open_source(str(tmp_path / f"{number}.npz"))


def test_empty_folders_and_no_images_are_named(tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="nothing has no images"):
        open_source(str(tmp_path / "nothing"))
    put(tmp_path / "p" / "cat" / "1.png", png())
    (tmp_path / "p" / "dog").mkdir()
    with pytest.raises(DataError, match="class folder without images: dog"):
        open_source(str(tmp_path / "p"))
    put(tmp_path / "p" / "dog" / "1.png", png())
    put(tmp_path / "p" / "loose.png", png())
    with pytest.raises(DataError, match=r"loose\.png"):
        open_source(str(tmp_path / "p"))
    with pytest.raises(DataError, match="does not exist"):
        open_source(str(tmp_path / "absent"))
    put(tmp_path / "one" / "1.png", png())
    with pytest.raises(DataError, match="too few"):
        open_splits(str(tmp_path / "one"))


def samples_of(path):
    source = open_source(str(path))
    return [(name, source.read(i)) for i, name in enumerate(source.names)]


def test_a_cut_or_altered_tar_never_loses_samples_silently(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for key in range(4):
            add(archive, f"{key}.png", png(key))
            add(archive, f"{key}.cls", b"0")
    whole, data = samples_of(path), path.read_bytes()
    for length in range(0, len(data) - 10 * 512, 256):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"a\.tar"):
            open_source(str(path))
    for position in (2 * 512, 4 * 512 + 124, 6 * 512 + 148):  # in headers of later members
        path.write_bytes(data[:position] + b"\xff" + data[position + 1 :])
        with pytest.raises(DataError, match=r"a\.tar"):
            open_source(str(path))
    path.write_bytes(data + data)
    with pytest.raises(DataError, match="two archives in one"):
        open_source(str(path))
    path.write_bytes(data)
    assert samples_of(path) == whole and len(whole) == 4


@pytest.mark.parametrize("kind", ["zip", "tar", "npz", "idx"])
def test_random_damage_gives_our_error_or_a_working_source(tmp_path, kind):
    rng = np.random.default_rng(11)
    path = tmp_path / ("train-images-idx3-ubyte" if kind == "idx" else f"a.{kind}")
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for key in range(3):
                archive.writestr(f"cat/{key}.png", png(key))
    elif kind == "tar":
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            for key in range(3):
                add(archive, f"{key}é.png", png(key), pax_headers={"comment": "x"})
                add(archive, f"{key}é.json", b'{"label": "cat"}')
    elif kind == "npz":
        np.savez_compressed(path, images=np.zeros((3, 4, 4), np.uint8), labels=np.array([0, 1, 1]))
    else:
        path.write_bytes(struct.pack(">HBBIII", 0, 8, 3, 3, 4, 4) + bytes(48))
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, 3) + bytes([0, 1, 1]))
    data = path.read_bytes()
    for _ in range(200):
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 5)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(1, len(damaged))] if rng.random() < 0.2 else damaged)
        try:
            source = open_source(str(path))
            for index in range(len(source)):
                source.image(index)
        except DataError:
            pass
