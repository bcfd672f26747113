"""What a safetensors file is, in its header: the keys of the Stability.AI Model Metadata Standard, version 1.0.1."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..files import read_json, write_atomically

PREFIX = "modelspec."
IMPLEMENTATION = "https://github.com/huggingface/diffusers"
_CHUNK = 1 << 20


def describe(folder: Path, title: str, image_size: int) -> None:
    """Write the keys into the header of every file of weights of an export; tensors keep their bytes.

    title: of the model. The class of a file's network is that of the `config.json` beside it. No date is written: the
    same export has the same bytes.
    """
    for path in sorted(folder.rglob("*.safetensors")):
        if not path.with_name("config.json").is_file():
            continue
        described = read_json(path.with_name("config.json"))
        network = described.get("_class_name") or (described.get("architectures") or ["unknown"])[0]
        part = "" if path.parent == folder else f", {path.parent.name}"
        spec = {
            "sai_model_spec": "1.0.1",
            "architecture": str(network),
            "implementation": IMPLEMENTATION,
            "title": f"{title}{part}",
            "resolution": f"{image_size}x{image_size}",
        }
        write_header(path, {PREFIX + name: value for name, value in spec.items()})


def write_header(path: Path, keys: Mapping[str, str]) -> None:
    """Add text keys to a safetensors file's header, with the sha256 of what follows it."""
    # A header is its length, 8 bytes little endian, and that many bytes of JSON; offsets count from behind it.
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    metadata = {**header.get("__metadata__", {}), **keys, f"{PREFIX}hash_sha256": f"0x{digest.hexdigest()}"}
    text = json.dumps({"__metadata__": dict(sorted(metadata.items())), **_tensors(header)}, separators=(",", ":"))
    padded = text.encode() + b" " * (-len(text.encode()) % 8)  # as safetensors aligns tensors

    def write(temporary: Path) -> None:
        with path.open("rb") as old, temporary.open("wb") as new:
            new.write(len(padded).to_bytes(8, "little") + padded)
            old.seek(8 + length)
            shutil.copyfileobj(old, new, _CHUNK)

    write_atomically(path, write)


def _tensors(header: Mapping[str, object]) -> dict[str, object]:
    return {name: entry for name, entry in header.items() if name != "__metadata__"}
