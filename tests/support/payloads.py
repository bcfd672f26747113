"""What attacks are made of: files that run code in a reader which trusts them, and the readers that fall for it.

An attack leaves a mark, an empty file, where it succeeds.
"""

import contextlib
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from tests.support.forgery import copy_run, seal, seal_checkpoint, seal_network

INDEX, CONFIG = "model_index.json", "config.json"
MEMBERS = ("pyd", "pickle", "pkl", "pth")  # what webdataset unpickles by default


class Trap:
    """Unpickled, it leaves the mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


def png(level: int = 7) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **fields: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(data))


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


# Pickles, where weights are expected.


def checkpoint_alone(folder: Path, mark: Path) -> Path:
    (folder / "dit.pt").write_bytes(saved(Trap(mark)))
    return folder / "dit.pt"


def checkpoint_beside_weights(folder: Path, mark: Path) -> Path:
    weights = {"x_embedder.proj.weight": torch.zeros(4, 4, 2, 2)}
    (folder / "dit.pt").write_bytes(saved({"ema": weights, "args": Trap(mark)}))
    return folder / "dit.pt"


def checkpoint_of_old(folder: Path, mark: Path) -> Path:
    """The format before torch 1.6: pickles one after another."""
    buffer = io.BytesIO()
    torch.save(Trap(mark), buffer, _use_new_zipfile_serialization=False)
    (folder / "dit.pth").write_bytes(buffer.getvalue())
    return folder / "dit.pth"


def pickle_as(name: str) -> Callable[[Path, Path], Path]:
    def make(folder: Path, mark: Path) -> Path:
        (folder / name).write_bytes(saved(Trap(mark)))
        return folder

    return make


def pickled_autoencoder(folder: Path, mark: Path) -> Path:
    (folder / CONFIG).write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    (folder / "diffusion_pytorch_model.bin").write_bytes(saved(Trap(mark)))
    return folder


def pickled_transformer(folder: Path, mark: Path) -> Path:
    parts = {"transformer": ["diffusers", "DiTTransformer2DModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (folder / INDEX).write_text(json.dumps({"_class_name": "DiTPipeline", **parts}))
    scheduler = {"_class_name": "DDIMScheduler", "beta_schedule": "linear"}
    for part, settings in {"scheduler": scheduler, "transformer": {}}.items():
        (folder / part).mkdir()
        name = "scheduler_config.json" if part == "scheduler" else CONFIG
        (folder / part / name).write_text(json.dumps(settings))
    (folder / "transformer" / "diffusion_pytorch_model.bin").write_bytes(saved(Trap(mark)))
    return folder


def pickled_network(folder: Path, mark: Path) -> Path:
    run = copy_run(folder)
    (run / "dit" / "final" / "model.safetensors").write_bytes(saved(Trap(mark)))
    seal_network(run / "dit" / "final")
    return run


def pickled_moments(folder: Path, mark: Path) -> Path:
    """In a training that goes on from its checkpoint."""
    run = copy_run(folder)
    (run / "dit" / "manifest.json").unlink()
    (saved_at,) = (run / "dit" / "checkpoints").iterdir()
    (saved_at / "optimizer.safetensors").write_bytes(saved(Trap(mark)))
    seal_checkpoint(saved_at)
    return run


# Python objects, where numbers are expected.


def object_array(folder: Path, mark: Path) -> Path:
    np.save(folder / "images.npy", np.array([Trap(mark)], dtype=object), allow_pickle=True)
    return folder / "images.npy"


def object_arrays(images: bool) -> Callable[[Path, Path], Path]:
    def make(folder: Path, mark: Path) -> Path:
        trap, plain = np.array([Trap(mark)], dtype=object), np.zeros((1, 8, 8), np.uint8)
        arrays = {"images": trap, "labels": plain[:, 0, 0]} if images else {"images": plain, "labels": trap}
        np.savez(folder / "data.npz", **arrays)
        return folder / "data.npz"

    return make


def pickle_as_npz(folder: Path, mark: Path) -> Path:
    (folder / "data.npz").write_bytes(pickle.dumps(Trap(mark)))
    return folder / "data.npz"


def object_latent(folder: Path, mark: Path) -> Path:
    run = copy_run(folder)
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap(mark)], dtype=object), allow_pickle=True)
    with tarfile.open(run / "latents" / "shard-000000.tar", "w") as shard:
        add(shard, "000000000.npy", buffer.getvalue())
        add(shard, "000000000.cls", b"0")
        add(shard, "000000000.json", b"{}")
    seal(run / "latents")
    return run


def members_of_samples(folder: Path, mark: Path) -> Path:
    """Images with labels, and pickles of the same keys beside them."""
    with tarfile.open(folder / "data.tar", "w") as archive:
        for key in range(8):
            add(archive, f"{key}.png", png(key))
            add(archive, f"{key}.cls", str(key % 2).encode())
            add(archive, f"{key}.{MEMBERS[key % 4]}", (saved if key % 4 == 3 else pickle.dumps)(Trap(mark)))
    return folder / "data.tar"


# YAML, addresses and images that name a program.


def recipe_with_tag(folder: Path, mark: Path) -> Path:
    (folder / "recipe.yaml").write_text(f"name: !!python/object/apply:os.system [\"touch '{mark}'\"]\n")
    return folder / "recipe.yaml"


def run_with_tag(folder: Path, mark: Path) -> Path:
    run = copy_run(folder)
    call = f"!!python/object/apply:os.system [\"touch '{mark}'\"]"
    (run / "dit" / "config.yaml").write_text(f"train-dit: {call}\nimport: {call}\n")
    return run


def piped(folder: Path, mark: Path) -> Path:
    with tarfile.open(folder / "a.tar", "w") as archive:
        add(archive, "0.png", png())
    return Path(f"pipe:touch '{mark}'; cat '{folder / 'a.tar'}'")


def postscript(folder: Path, mark: Path) -> Path:
    """A picture that Pillow would hand to Ghostscript: here to a program of that name which leaves the mark."""
    (folder / "bin").mkdir()
    (folder / "bin" / "gs").write_text(f"#!/bin/sh\ntouch '{mark}'\n")
    (folder / "bin" / "gs").chmod(0o755)
    (folder / "photos").mkdir()
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    (folder / "photos" / "1.jpg").write_bytes(text)
    for level in range(8):
        (folder / "photos" / f"{level}.png").write_bytes(png(level))
    return folder / "photos"


def read_postscript(photos: Path) -> None:
    from PIL import EpsImagePlugin

    path, kept = os.environ["PATH"], EpsImagePlugin.gs_binary
    os.environ["PATH"] = f"{photos.parent / 'bin'}{os.pathsep}{path}"
    EpsImagePlugin.gs_binary = None  # It remembers what it found.
    try:
        Image.open(photos / "1.jpg").load()
    finally:
        os.environ["PATH"], EpsImagePlugin.gs_binary = path, kept


# Names that lead out of an archive. The mark lies beside the folder that is given.


def tar_with(**members: dict[str, Any]) -> Callable[[Path, Path], Path]:
    def make(folder: Path, mark: Path) -> Path:
        with tarfile.open(folder / "data.tar", "w") as archive:
            add(archive, "cat/0.png", png())
            for field in members.values():
                fields = {k: v.format(mark=mark, name=mark.name, parent=mark.parent) if isinstance(v, str) else v
                          for k, v in field.items()}  # fmt: skip
                add(archive, fields.pop("name"), fields.pop("data", b""), **fields)
        return folder / "data.tar"

    return make


def unpack_tar(path: Path) -> None:
    with tarfile.open(path) as archive:
        archive.extractall(path.parent, filter="fully_trusted")


def shard_leading_out(folder: Path, mark: Path) -> Path:
    run = copy_run(folder)
    with tarfile.open(run / "latents" / "shard-000000.tar", "a") as shard:
        add(shard, f"../../../{mark.name}")
    seal(run / "latents")
    return run


def zip_with(*names: str) -> Callable[[Path, Path], Path]:
    def make(folder: Path, mark: Path) -> Path:
        with zipfile.ZipFile(folder / "data.zip", "w") as archive:
            archive.writestr("cat/0.png", png())
            for name in names:
                archive.writestr(zipfile.ZipInfo(name.format(mark=mark, name=mark.name)), png())
        return folder / "data.zip"

    return make


def unpack_zip(path: Path) -> None:
    """As unpackers did that joined names to a folder (Zip Slip, 2018)."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            target = Path(os.path.join(path.parent, name.replace("\\", "/")))  # noqa: PTH118
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))


# Classes of others, named in folders of diffusers.


def module(mark: Path) -> str:
    lines = ["import os", f"os.system(\"touch '{mark}'\")", "from diffusers import DiffusionPipeline, ModelMixin"]
    lines += ["class Evil(DiffusionPipeline):", "    def __init__(self, transformer=None): super().__init__()"]
    return "\n".join([*lines, "class Model(ModelMixin): pass", ""])


def pipeline_of_others(folder: Path, mark: Path) -> Path:
    (folder / "evil.py").write_text(module(mark))
    (folder / INDEX).write_text(json.dumps({"_class_name": ["evil", "Evil"], "_diffusers_version": "0.30.0"}))
    return folder


def part_of_others(folder: Path, mark: Path) -> Path:
    (folder / "transformer").mkdir()
    (folder / "transformer" / "evil.py").write_text(module(mark))
    parts = {"transformer": ["evil", "Model"], "vae": ["diffusers", "AutoencoderKL"]}
    (folder / INDEX).write_text(json.dumps({"_class_name": "DiTPipeline", "_diffusers_version": "0.30.0", **parts}))
    return folder


def autoencoder_of_others(name: str) -> Callable[[Path, Path], Path]:
    def make(folder: Path, mark: Path) -> Path:
        (folder / "evil.py").write_text(module(mark))
        mapped = {"_class_name": name, "auto_map": {"AutoModel": "evil.Model"}}
        (folder / CONFIG).write_text(json.dumps(mapped))
        return folder

    return make


def load_pipeline(folder: Path) -> None:
    from diffusers import DiffusionPipeline

    DiffusionPipeline.from_pretrained(folder, local_files_only=True, trust_remote_code=True)


def load_part(folder: Path) -> None:
    """As a reader does that imports what the index names."""
    import importlib
    import sys

    named = json.loads((folder / INDEX).read_text())["transformer"]
    sys.path.insert(0, str(folder / "transformer"))
    try:
        getattr(importlib.import_module(named[0]), named[1])
    finally:
        sys.path.pop(0)
        sys.modules.pop(named[0], None)


def load_autoencoder(folder: Path) -> None:
    from diffusers import AutoModel

    AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=True)


# What reads them.


def unpickle(path: Path) -> None:
    """Read every file of a folder, or the one, as torch did before it took weights only."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.suffix in (".pt", ".pth", ".bin", ".safetensors"):
            with contextlib.suppress(Exception):  # Those that are what they should be.
                torch.load(io.BytesIO(file.read_bytes()), weights_only=False)


def read_objects(path: Path) -> None:
    loaded = np.load(path, allow_pickle=True)
    if path.suffix == ".npz":
        for name in loaded.files:
            loaded[name]


def read_samples(path: Path) -> None:
    import webdataset

    for _ in webdataset.WebDataset(str(path), shardshuffle=False).decode():
        pass


def read_latents(run: Path) -> None:
    with tarfile.open(run / "latents" / "shard-000000.tar") as shard:
        np.load(io.BytesIO(shard.extractfile("000000000.npy").read()), allow_pickle=True)  # type: ignore[union-attr]


def read_yaml(path: Path) -> None:
    yaml.unsafe_load((path / "dit" / "config.yaml" if path.is_dir() else path).read_text())
