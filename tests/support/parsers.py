"""What reads images, labels, recipes and numbers: for each kind of file a small whole one, and all that reads it."""

import gzip
import json
import math
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
from ldm.core.errors import UserError
from ldm.core.images.captions import with_captions
from ldm.core.images.exclusion import read_exclusion
from ldm.core.images.settings import Data
from ldm.core.images.sources import open_source, open_splits
from ldm.core.latents.attributes import TABLE, read_table
from ldm.core.runs import metrics_log
from ldm.core.training import record
from tests.support.harms import Harm, in_bytes, in_json, in_lines, in_npz, in_tar, in_yaml
from tests.support.payloads import add, png

Read = Callable[[Path, str], object]


@dataclass(frozen=True)
class Parser:
    """One kind of file. make: writes whole files into a folder. harms: how each is harmed.

    readers: what reads them, handed the folder and which file is harmed. seal: puts the hashes of harmed files right,
    as whoever harms on purpose would. rarely: readers that take long.
    """

    make: Callable[[Path], None]
    harms: Mapping[str, Harm]
    readers: tuple[Read, ...]
    seal: Callable[[Path, str], None] | None = None
    rarely: tuple[Read, ...] = ()


def reading(name: str) -> tuple[Read, ...]:
    """Return the readers of images at a place in the folder: one after the other, and in two parts."""

    def whole(folder: Path, _: str) -> None:
        source = open_source(str(folder / name))
        for index in range(len(source)):
            source.image(index)
        source.fingerprint()

    def in_parts(folder: Path, _: str) -> None:
        train, val = open_splits(str(folder / name), val_fraction=0.4)
        assert len(train) and len(val)

    return whole, in_parts


def make_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"{'cat' if number % 2 else 'dög'}/{number}.png", png(number))
        archive.writestr("classes.json", '{"cat": "Katze"}')


IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")


def make_idx(folder: Path) -> None:
    images = struct.pack(">HBBIII", 0, 8, 3, 4, 5, 5) + bytes(range(100))
    labels = struct.pack(">HBBI", 0, 8, 1, 4) + bytes([0, 1, 1, 0])
    for name, data in zip(IDX, (images, labels), strict=True):
        (folder / name).write_bytes(data)


def make_idx_gz(folder: Path) -> None:
    make_idx(folder)
    for name in IDX:
        data = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / f"{name}.gz").write_bytes(gzip.compress(data, mtime=0))


def make_npz(folder: Path) -> None:
    images = np.arange(4 * 5 * 5 * 3, dtype=np.uint8).reshape(4, 5, 5, 3)
    np.savez(folder / "a.npz", images=images, labels=np.array([0, 1, 1, 0]), class_names=np.array(["cat", "dog"]))


def make_webdataset(folder: Path) -> None:
    with tarfile.open(folder / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for key in range(4):
            add(archive, f"{key}é.png", png(key), pax_headers={"comment": "x"})
            add(archive, f"{key}é.{'json' if key % 2 else 'cls'}", b'{"label": "cat"}' if key % 2 else b"dog")
    (folder / "classes.json").write_text('{"cat": "Katze"}')


def make_tar_of_folders(folder: Path) -> None:
    with tarfile.open(folder / "a.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for key in range(4):
            add(archive, f"{'cat' if key % 2 else 'd' * 110}/{key}.png", png(key))


def make_classes(folder: Path) -> None:
    """The same file of class names for a folder, for tars labelled by number, and for tars labelled by name."""
    for number in range(4):
        place = folder / "folder" / f"n{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(png(number))
    for name in ("numbers", "names"):
        (folder / name).mkdir()
        with tarfile.open(folder / name / "a.tar", "w") as archive:
            for number in range(4):
                add(archive, f"{number}.png", png(number))
                add(archive, f"{number}.cls", f"{'n' if name == 'names' else ''}{number % 2}".encode())
    (folder / "classes.json").write_text(json.dumps({"n0": "cat", "n1": [1, "dog"], "0": "cat", "1": ["n1", "dog"]}))


def naming(place: str) -> Read:
    """Return the reader of images with these class names beside them."""

    def read(folder: Path, harmed: str) -> None:
        shutil.copy(folder / "classes.json", folder / place / "classes.json")
        reading(place)[0](folder, harmed)

    return read


IMAGES = ("a.jpg", "a.png", "a.webp", "a.gif", "a.tif", "a.bmp", "a.tga", "a.ppm", "b.jpg", "b.png", "b.tif")


def make_images(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 4), dtype=np.uint8)
    for name in IMAGES[:8]:
        Image.fromarray(pixels[..., : 4 if name == "a.png" else 3]).save(folder / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[..., :3]).save(folder / "b.jpg", exif=exif, progressive=True)
    Image.fromarray(pixels[..., :3]).convert("P").save(folder / "b.png", transparency=3)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "b.tif", compression="tiff_lzw")


def make_names(folder: Path) -> None:
    """A list of names; the files themselves are made by the reader."""
    (folder / "names").write_bytes(b"cat/1.png\0cat/2.PNG\0dog/3.png\0dog/4.jpg\0dog/notes.txt\0cat/sub/5.png")


def read_names(folder: Path, harmed: str) -> None:
    """Make a folder of files of those names, as far as the system has such, and read it."""
    root = folder / "photos"
    root.mkdir()
    try:
        for number, name in enumerate((folder / "names").read_bytes().split(b"\0")):
            path = Path(os.fsdecode(os.fsencode(root) + b"/" + name))
            if ".." in path.parts:
                continue
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(number))
            except OSError:
                continue
        reading("photos")[0](folder, harmed)
    finally:
        shutil.rmtree(root)


RECIPE = """\
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


def make_recipe(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(RECIPE)


def read_recipe(folder: Path, harmed: str) -> None:
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
    (folder / metrics_log.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def go_on_recording(folder: Path, harmed: str) -> None:
    record.MetricsLog(folder, 16).add({"images": 24, "loss": 0.5})
    assert all(line["images"] <= 24 for line in metrics_log.read(folder / metrics_log.METRICS))


def draw_curves(folder: Path, harmed: str) -> None:
    record.write_curves(folder)


LISTS = ("lines.txt", "list.json")


def make_exclusion(folder: Path) -> None:
    """Both forms of a list of images to leave out, and the images."""
    (folder / "photos" / "cat").mkdir(parents=True)
    names = [f"cat/{number}é.png" for number in range(4)]
    for number, name in enumerate(names):
        (folder / "photos" / name).write_bytes(png(number))
    (folder / LISTS[0]).write_text(f'# copies\n{names[0]}\n"cat/1\\u00e9.png"\n')
    (folder / LISTS[1]).write_text(json.dumps(names[:2]))


def leave_out(folder: Path, harmed: str) -> None:
    listed = read_exclusion(folder / harmed)
    left = listed.leave_out([("train", open_source(str(folder / "photos")))])
    assert len(left[0][1]) + len(listed.names) >= 4 and listed.sha256


TEXTS = ("metadata.jsonl", "captions.csv", "annotations.json", "dataset.json", "tokens.txt", "photos/1.txt")


def make_captions(folder: Path) -> None:
    """Captions of four images in every form of file, and beside one of them."""
    names = [f"{number}.png" for number in range(4)]
    (folder / "photos").mkdir(parents=True)
    for number, name in enumerate(names):
        (folder / "photos" / name).write_bytes(png(number))
        (folder / "photos" / f"{number}.txt").write_text(f"number {number}\neiné Zahl\n")
    rows = [{"file_name": name, "text": [f"number {name}", "one more"]} for name in names]
    (folder / TEXTS[0]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / TEXTS[1]).write_text("file_name,text\n" + "".join(f'{name},"a photo, {name}"\n' for name in names))
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    notes = [{"image_id": number, "caption": f"number {number}"} for number in range(4)]
    (folder / TEXTS[2]).write_text(json.dumps({"images": images, "annotations": notes}))
    sentences = [{"filename": name, "split": "train", "sentences": [{"raw": name}]} for name in names]
    (folder / TEXTS[3]).write_text(json.dumps({"images": sentences}))
    (folder / TEXTS[4]).write_text("".join(f"{name}#0\tnumber {name}\n" for name in names))


def caption(folder: Path, harmed: str) -> None:
    place = str(folder / "photos")
    data = Data(source=place, captions="auto" if harmed.startswith("photos") else str(folder / harmed))
    (source,) = with_captions([open_source(place)], data)
    assert source.captions is not None and len(source.caption_fingerprint()) == 64
    assert all(isinstance(text, str) and text for texts in source.captions for text in texts)


def make_labels(folder: Path) -> None:
    (folder / "photos").mkdir()
    for number in range(4):
        (folder / "photos" / f"{number}.png").write_bytes(png(number))
    rows = "".join(f'{number}.png,"chât;out",{number / 2},{number}\n' for number in range(4))
    (folder / "photos" / TABLE).write_text("file,labels,age,größe\n" + rows)


def label(folder: Path, harmed: str) -> None:
    for row in read_table(open_source(str(folder / "photos"))).values():
        assert all(map(math.isfinite, row.numbers.values())) and all("," not in each for each in row.labels)


def _each(names: tuple[str, ...], harm: Harm) -> dict[str, Harm]:
    return dict.fromkeys(names, harm)


PARSERS: dict[str, Parser] = {
    "zip": Parser(make_zip, {"a.zip": in_bytes}, reading("a.zip")),
    "idx": Parser(make_idx, _each(IDX, in_bytes), reading(".")),
    "idx-gz": Parser(make_idx_gz, _each(tuple(f"{name}.gz" for name in IDX), in_bytes), reading(".")),
    "npz": Parser(make_npz, {"a.npz": in_npz}, reading("a.npz")),
    "webdataset": Parser(make_webdataset, {"a.tar": in_tar}, reading("a.tar")),
    "tar-of-folders": Parser(make_tar_of_folders, {"a.tar": in_tar}, reading("a.tar")),
    "classes": Parser(make_classes, {"classes.json": in_json}, tuple(map(naming, ("folder", "numbers", "names")))),
    "image": Parser(make_images, _each(IMAGES, in_bytes), reading(".")[:1]),
    "names": Parser(make_names, {"names": in_bytes}, (read_names,)),
    "exclusion": Parser(make_exclusion, {LISTS[0]: in_bytes, LISTS[1]: in_json}, (leave_out,)),
    "captions": Parser(
        make_captions,
        dict(zip(TEXTS, (in_lines, in_bytes, in_json, in_json, in_bytes, in_bytes), strict=True)),
        (caption,),
    ),
    "labels": Parser(make_labels, {f"photos/{TABLE}": in_bytes}, (label,)),
    "recipe": Parser(make_recipe, {"recipe.yaml": in_yaml}, (read_recipe,)),
    "metrics": Parser(make_metrics, {metrics_log.METRICS: in_lines}, (go_on_recording,), rarely=(draw_curves,)),
}
