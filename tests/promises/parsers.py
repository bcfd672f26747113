"""What reads images, labels, recipes and numbers: for each kind of file a small whole one, and all that reads it."""

import gzip
import io
import json
import os
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldm.cli.layers import merged_config
from ldm.core.data.sources import open_source, open_splits
from ldm.core.errors import UserError
from ldm.core.training import record
from ldm.stages.commands import COMMANDS
from mutations import mutate_bytes, mutate_json, mutate_lines, mutate_tar, mutate_yaml
from payloads import add, png

Mutate = Callable[[bytes, np.random.Generator], bytes]
Read = Callable[[Path], object]


@dataclass(frozen=True)
class Parser:
    """One kind of file. make: writes whole files into a folder. harms: how each is harmed. readers: what reads them.

    seal: puts the hashes of harmed files right, as whoever harms on purpose would. rarely: readers that take long.
    """

    make: Callable[[Path], None]
    harms: Mapping[str, Mutate]
    readers: tuple[Read, ...]
    seal: Callable[[Path, str], None] | None = None
    rarely: tuple[Read, ...] = ()


def read_source(path: Path) -> None:
    """Open images as training does, and decode each."""
    source = open_source(str(path))
    for index in range(len(source)):
        source.image(index)
    source.fingerprint()


def split_source(path: Path) -> None:
    train, val = open_splits(str(path), val_fraction=0.4)
    assert len(train) and len(val)
    str(train.class_names), str(train.ignored)


def of(name: str) -> tuple[Read, ...]:
    return (lambda folder: read_source(folder / name), lambda folder: split_source(folder / name))


def make_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"{'cat' if number % 2 else 'dög'}/{number}.png", png(number))
        archive.writestr("classes.json", '{"cat": "Katze"}')


def make_idx(folder: Path) -> None:
    images = struct.pack(">HBBIII", 0, 8, 3, 4, 5, 5) + bytes(range(100))
    labels = struct.pack(">HBBI", 0, 8, 1, 4) + bytes([0, 1, 1, 0])
    (folder / "train-images-idx3-ubyte").write_bytes(images)
    (folder / "train-labels-idx1-ubyte").write_bytes(labels)


def make_idx_gz(folder: Path) -> None:
    make_idx(folder)
    for path in list(folder.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path.unlink()


def make_npz(folder: Path) -> None:
    images = np.arange(4 * 5 * 5 * 3, dtype=np.uint8).reshape(4, 5, 5, 3)
    np.savez(folder / "a.npz", images=images, labels=np.array([0, 1, 1, 0]), class_names=np.array(["cat", "dog"]))


def mutate_npz(data: bytes, random: np.random.Generator) -> bytes:
    """Change the header of an array, or bytes anywhere."""
    if random.random() < 0.4:
        return mutate_bytes(data, random)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        chosen = old.namelist()[int(random.integers(len(old.namelist())))]
        for name in old.namelist():
            content = old.read(name)
            if name == chosen:
                size = struct.unpack("<H", content[8:10])[0]
                header, rest = content[10 : 10 + size], content[10 + size :]
                words = [b"|u1", b"<i8", b"<U3", b"False", b"(4,", b"5", b"3", b"'shape'", b"descr", b"}"]
                values = [b"|O", b">u8", b"<f8", b"<M8[s]", b"|V9", b"True", b"-1", b"9" * 30, b"()", b"(((", b"1L", b"x",
                          b"[('a', '|u1')]", b"__import__('os')", b"<U0", b"<c16", b"\xff", b"'''", b"0", b"\n"]  # fmt: skip
                word, value = words[int(random.integers(len(words)))], values[int(random.integers(len(values)))]
                header = header.replace(word, value, 1) if random.random() < 0.8 else mutate_bytes(header, random)
                length = len(header) if random.random() < 0.9 else int(random.integers(65536))
                content = content[:8] + struct.pack("<H", length) + header + rest
            new.writestr(name, content)
    return buffer.getvalue()


def make_tar(folder: Path) -> None:
    with tarfile.open(folder / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for key in range(4):
            add(archive, f"{key}é.png", png(key), pax_headers={"comment": "x"})
            add(archive, f"{key}é.{'json' if key % 2 else 'cls'}", b'{"label": "cat"}' if key % 2 else b"dog")
    (folder / "classes.json").write_text('{"cat": "Katze"}')


def make_plain_tar(folder: Path) -> None:
    with tarfile.open(folder / "a.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for key in range(4):
            add(archive, f"{'cat' if key % 2 else 'd' * 110}/{key}.png", png(key))


def make_classes(folder: Path) -> None:
    """The same file of class names as a folder, a tar by number and a tar by name have it."""
    for name in ("folder", "numbers", "names"):
        (folder / name).mkdir()
    for number in range(4):
        (folder / "folder" / f"n{number % 2}").mkdir(exist_ok=True)
        (folder / "folder" / f"n{number % 2}" / f"{number}.png").write_bytes(png(number))
    for name in ("numbers", "names"):
        with tarfile.open(folder / name / "a.tar", "w") as archive:
            for number in range(4):
                add(archive, f"{number}.png", png(number))
                add(archive, f"{number}.cls", f"{'n' if name == 'names' else ''}{number % 2}".encode())
    (folder / "classes.json").write_text(json.dumps({"n0": "cat", "n1": [1, "dog"], "0": "cat", "1": ["n1", "dog"]}))


def with_classes(name: str) -> Read:
    def read(folder: Path) -> None:
        table = folder / name / "classes.json"
        shutil.copy(folder / "classes.json", table)
        try:
            read_source(folder / name)
        finally:
            table.unlink()

    return read


def make_images(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 4), dtype=np.uint8)
    for name, options in {"a.jpg": {}, "a.png": {}, "a.webp": {}, "a.gif": {}, "a.tif": {}, "a.bmp": {}}.items():
        Image.fromarray(pixels[..., : 3 if name != "a.png" else 4]).save(folder / name, **options)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "b.tif")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[..., :3]).save(folder / "b.jpg", exif=exif)
    Image.fromarray(pixels[..., :3]).convert("P").save(folder / "b.png", transparency=3)
    Image.fromarray(pixels[..., :3]).save(folder / "a.tga")
    Image.fromarray(pixels[..., :3]).save(folder / "a.ppm")


def make_names(folder: Path) -> None:
    """A list of names; the files themselves are made by the reader."""
    (folder / "names").write_bytes(b"cat/1.png\0cat/2.PNG\0dog/3.png\0dog/4.jpg\0dog/notes.txt\0cat/sub/5.png")


def read_names(folder: Path) -> None:
    """Make a folder of files of those names, as far as the system has such, and read it."""
    root = folder / "photos"
    root.mkdir()
    try:
        for number, name in enumerate((folder / "names").read_bytes().split(b"\0")):
            path = os.path.join(os.fsencode(root), *name.split(b"/"))  # noqa: PTH118
            if b".." in name.split(b"/") or not name.strip(b"/"):
                continue
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
                with open(path, "wb") as file:  # noqa: PTH123
                    file.write(png(number))
            except OSError:
                continue
        read_source(root)
    finally:
        shutil.rmtree(root)


def make_recipe(folder: Path) -> None:
    recipe = """\
# A recipe
name: tiny
seed: 1
data: {source: photos, image_size: 32, flip: no}
machine: {device: cpu}
train-vqvae:
  model: {preset: vqvae-xs, channel_multipliers: [1, 2]}
  train: {images: 20k, lr: 2e-4}
train-dit:
  model:
    preset: dit-xs
    width: 64
  diffusion: {prediction: v}
  train:
    images: 1M
sample:
  cfg: 2.5
  cfg_interval: 0.2,0.8
eval:
  limit: 100
"""
    (folder / "recipe.yaml").write_text(recipe)


def read_recipe(folder: Path) -> None:
    refused: list[UserError] = []
    for command in ("train-vqvae", "train-dit", "sample", "eval"):
        try:
            merged_config(command, str(folder / "recipe.yaml")).config.model_dump(mode="json")
        except UserError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def make_metrics(folder: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"images": 8 * n, "step": n, "loss": 1 / n, "val_loss": 2 / n, "images_per_second": 3.5, "skipped": 0}
        for n in range(1, 5)
    ]
    (folder / record.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def rewrite_metrics(folder: Path) -> None:
    """As a training does that goes on."""
    record.Record(folder, 16).add({"images": 24, "loss": 0.5})
    assert all(line["images"] <= 24 for line in record.read(folder / record.METRICS))


def draw_metrics(folder: Path) -> None:
    record.write_curves(folder)


PARSERS: dict[str, Parser] = {
    "zip": Parser(make_zip, {"a.zip": mutate_bytes}, of("a.zip")),
    "idx": Parser(
        make_idx, {"train-images-idx3-ubyte": mutate_bytes, "train-labels-idx1-ubyte": mutate_bytes}, of(".")
    ),
    "idx-gz": Parser(
        make_idx_gz, {"train-images-idx3-ubyte.gz": mutate_bytes, "train-labels-idx1-ubyte.gz": mutate_bytes}, of(".")
    ),
    "npz": Parser(make_npz, {"a.npz": mutate_npz}, of("a.npz")),
    "webdataset": Parser(make_tar, {"a.tar": mutate_tar}, of("a.tar")),
    "plain-tar": Parser(make_plain_tar, {"a.tar": mutate_tar}, of("a.tar")),
    "classes": Parser(
        make_classes,
        {"classes.json": mutate_json},
        (with_classes("folder"), with_classes("numbers"), with_classes("names")),
    ),
    "image": Parser(
        make_images,
        {
            name: mutate_bytes
            for name in (
                "a.jpg",
                "a.png",
                "a.webp",
                "a.gif",
                "a.tif",
                "a.bmp",
                "b.tif",
                "b.jpg",
                "b.png",
                "a.tga",
                "a.ppm",
            )
        },
        (read_source,),
    ),  # fmt: skip
    "names": Parser(make_names, {"names": mutate_bytes}, (read_names,)),
    "recipe": Parser(make_recipe, {"recipe.yaml": mutate_yaml}, (read_recipe,)),
    "metrics": Parser(make_metrics, {record.METRICS: mutate_lines}, (rewrite_metrics,), rarely=(draw_metrics,)),
}
assert set(COMMANDS) >= {"train-vqvae", "train-dit"}
