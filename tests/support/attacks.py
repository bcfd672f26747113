"""Attacks by files that run code, or write where they should not, in a reader that trusts them.

Each is first given to a reader that falls for it, so that an attack which has lost its sting is noticed, and then to
`ldm`.
"""

import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ldm.core.autoencoders import taef2
from ldm.core.features import lenet
from tests.support import payloads as p
from tests.support.forgery import RUN, copy_run


@dataclass(frozen=True)
class Attack:
    """One attack.

    make: writes it into a folder, to leave that mark, and returns the path to hand over. fall: a reader that falls for
    that path. words: the command that is handed it. code, says: how `ldm` ends, and what it says.
    """

    name: str
    make: Callable[[Path, Path], Path]
    fall: Callable[[Path], object]
    words: Callable[[Path], list[object]]
    code: int
    says: str


# What is handed them.


def importing(path: Path) -> list[object]:
    return ["import", path, "--autoencoder", path.parent, "--runs-dir", path.parent / "runs"]


def importing_folder(path: Path) -> list[object]:
    return ["import", path, "--runs-dir", path / "runs"]


def training_on(path: Path) -> list[object]:
    where = path.parent if path.is_absolute() else Path(str(path).split("'")[3]).parent
    tiny = ["model.channels=8", "model.codebook_size=16", "--images", "8", "--batch-size", "8", "pictures=1"]
    words = ["train-vqvae", "--data", path, "--image-size", "16", "data.val_fraction=0.3", "--device", "cpu"]
    return [*words, *tiny, "--runs-dir", where / "runs"]


def given_autoencoder(path: Path) -> list[object]:
    return ["train-vqvae", "--data", "mnist", "--image-size", "32", "--autoencoder", path, "--runs-dir", path / "runs"]


def on_run(*words: object) -> Callable[[Path], list[object]]:
    return lambda run: [*words, "--runs-dir", run.parent, "--name", RUN]


def going_on(run: Path) -> list[object]:
    return ["train-dit", "-c", run / "dit" / "config.yaml", "--runs-dir", run.parent, "--name", RUN]


def verifying(run: Path) -> list[object]:
    return ["verify", run]


def judging_by(*words: object) -> Callable[[Path], list[object]]:
    def command(folder: Path) -> list[object]:
        copy_run(folder / "runs")
        chosen = [word.format(folder=folder) if isinstance(word, str) else word for word in words]
        return ["eval", *chosen, "--runs-dir", folder / "runs", "--name", RUN]

    return command


_LINK, _HARD = {"type": tarfile.SYMTYPE}, {"type": tarfile.LNKTYPE}
_OUT = {"name": "out", "linkname": "{parent}", **_LINK}
_THROUGH = {"name": "out/{name}", "data": b"written"}

ATTACKS = [
    Attack("pt", p.checkpoint_alone, p.unpickle, importing, 3, "dit.pt holds something other than weights"),
    Attack("pt-beside-weights", p.checkpoint_beside_weights, p.unpickle, importing, 3, "holds something other"),
    Attack("pth-of-old", p.checkpoint_of_old, p.unpickle, importing, 3, "dit.pth holds something other than weights"),
    Attack(
        "bin-of-transformer",
        p.pickled_transformer,
        p.unpickle,
        importing_folder,
        3,
        "holds something other than weights",
    ),
    Attack("bin-of-autoencoder", p.pickled_autoencoder, p.unpickle, given_autoencoder, 3, "model.bin is a pickle"),
    Attack("pth-of-taef2", p.pickle_as(taef2.ENCODER), p.unpickle, given_autoencoder, 3, "its sha256 is"),
    Attack(
        "pth-of-lenet",
        p.pickle_as(lenet.WEIGHTS),
        p.unpickle,
        judging_by("--samples", "some", "--features", "lenet", "--weights", "{folder}", "--reference", "mnist"),
        3,
        "its sha256 is",
    ),
    Attack("pickled-network", p.pickled_network, p.unpickle, on_run("sample"), 3, "not a readable safetensors file"),
    Attack("pickled-moments", p.pickled_moments, p.unpickle, going_on, 3, "optimizer.safetensors is damaged"),
    Attack("npy", p.object_array, p.read_objects, training_on, 3, "images.npy is not a kind of data"),
    Attack(
        "npz-images",
        p.object_arrays(True),
        p.read_objects,
        training_on,
        3,
        "images cannot be read: it holds Python",
    ),
    Attack(
        "npz-labels",
        p.object_arrays(False),
        p.read_objects,
        training_on,
        3,
        "labels cannot be read: it holds Python",
    ),
    Attack("npz-pickle", p.pickle_as_npz, p.read_objects, training_on, 3, "data.npz is not an .npz that can be read"),
    Attack(
        "latent-of-objects", p.object_latent, p.read_latents, verifying, 3, "shard-000000.tar is damaged at 000000000"
    ),
    Attack("webdataset-members", p.members_of_samples, p.read_samples, training_on, 0, "ignored, as no images: 0.pyd"),
    Attack(
        "yaml-recipe",
        p.recipe_with_tag,
        p.read_yaml,
        lambda recipe: ["train-dit", "-c", recipe],
        2,
        "recipes use no tags",
    ),
    Attack("yaml-of-run", p.run_with_tag, p.read_yaml, verifying, 3, "config.yaml cannot be read as a recipe"),
    Attack("pipe", p.piped, p.read_samples, training_on, 3, "commands and addresses are never followed"),
    Attack("postscript", p.postscript, p.read_postscript, training_on, 3, "it is PostScript"),
    Attack(
        "tar-parent", p.tar_with(a={"name": "../{name}", "data": b"x"}), p.unpack_tar, training_on, 3, "leads out of it"
    ),
    Attack(
        "tar-absolute", p.tar_with(a={"name": "{mark}", "data": b"x"}), p.unpack_tar, training_on, 3, "leads out of it"
    ),
    Attack("tar-symlink", p.tar_with(a=_OUT, b=_THROUGH), p.unpack_tar, training_on, 3, "out is a link"),
    Attack(
        "tar-hardlink",
        p.tar_with(
            a={"name": "in", "linkname": "{mark}", **_LINK},
            b={"name": "x", "linkname": "in", **_HARD},
            c={"name": "in", "data": b"x"},
        ),
        p.unpack_tar,
        training_on,
        3,
        "in is a link",
    ),
    Attack(
        "shard-parent",
        p.shard_leading_out,
        lambda run: p.unpack_tar(run / "latents" / "shard-000000.tar"),
        verifying,
        3,
        "shard-000000.tar",
    ),
    Attack("zip-slip", p.zip_with("../{name}"), p.unpack_zip, training_on, 3, "leads out of it"),
    Attack("zip-backslash", p.zip_with("..\\{name}"), p.unpack_zip, training_on, 3, "leads out of it"),
    Attack("zip-absolute", p.zip_with("{mark}"), p.unpack_zip, training_on, 3, "leads out of it"),
    Attack("pipeline-class", p.pipeline_of_others, p.load_pipeline, importing_folder, 3, "not a DiTPipeline"),
    Attack("part-class", p.part_of_others, p.load_part, importing_folder, 3, "transformer is ['evil', 'Model']"),
    Attack(
        "auto-map",
        p.autoencoder_of_others("AutoencoderKL"),
        p.load_autoencoder,
        given_autoencoder,
        3,
        "diffusion_pytorch_model.safetensors does not exist",
    ),
    Attack(
        "autoencoder-class",
        p.autoencoder_of_others("Model"),
        p.load_autoencoder,
        given_autoencoder,
        3,
        "describes a Model",
    ),
]
