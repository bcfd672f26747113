"""What reads checkpoints, others' networks and what goes with them: a small whole one each, and all that reads it."""

import contextlib
import json
from pathlib import Path
from typing import Any

import torch

from ldm.core import files
from ldm.core.autoencoders import registry
from ldm.core.features import reference
from ldm.core.features.extractor import Extractor, Features
from ldm.core.features.reference import keep_features, kept_features
from ldm.core.interchange.checkpoint import load_dit
from ldm.core.interchange.exporters import import_autoencoder
from ldm.core.metrics.frechet import DESCRIPTION, GaussianStatistics, load_statistics, save_statistics, statistics_of
from ldm.core.progress import Silent
from ldm.core.runs import checkpoint
from ldm.core.runs.run import MANIFEST
from ldm.core.training import loop
from ldm.core.training.state import TrainingState
from ldm.core.training.step import Stepper
from ldm.stages.configs.exchange import Import
from ldm.stages.configs.folders import Inspect
from ldm.stages.tools import import_model, inspect
from tests.support.authors_dit import random_checkpoint
from tests.support.harms import in_header, in_json, in_zip
from tests.support.parsers import Parser
from tests.support.regression import FP32, PLAN, Regression

NEWEST = f"{checkpoint.FOLDER}/{PLAN.images:010d}"
PIPE = ("model_index.json", "scheduler/scheduler_config.json", "transformer/config.json", "vae/config.json")
WEIGHTS = "diffusion_pytorch_model.safetensors"


def make_training(folder: Path) -> None:
    loop.train(Regression(), PLAN, FP32, folder, Silent())
    for path in (*folder.glob("*.png"), *folder.glob("*.txt")):
        path.unlink()


def go_on_training(folder: Path, harmed: str) -> None:
    """Resume from the newest checkpoint as training does."""
    run = TrainingState(PLAN, folder, Silent(), None, Stepper(Regression(), PLAN, FP32))
    run.resume()
    run.open_log()


def look_at_checkpoint(folder: Path, harmed: str) -> None:
    inspect.run(Inspect(path=folder / NEWEST), Silent())


def seal_training(folder: Path, harmed: str) -> None:
    path = folder / NEWEST / MANIFEST
    with contextlib.suppress(Exception):
        if harmed.endswith(MANIFEST):  # Its text stays as odd as it is; a last entry overrules those before it.
            text = path.read_text()
            own = files.sha256_json(json.loads(text)["files"])
            path.write_text(f'{text.rstrip()[:-1]}, "sha256": "{own}"}}')
        else:
            manifest = json.loads(path.read_bytes())
            table = {name: files.sha256_file(path.with_name(name)) for name in manifest["files"]}
            path.write_text(json.dumps({**manifest, "files": table, "sha256": files.sha256_json(table)}))


def make_pipeline(folder: Path) -> None:
    import diffusers

    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=1, attention_head_dim=8, in_channels=4, num_layers=1, sample_size=4, norm_eps=1e-6
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=8,
        latent_channels=4,
        layers_per_block=1,
    )
    names = {"0": "cat, pet", "1": "dog"}
    built: Any = diffusers.DiTPipeline(transformer, vae, diffusers.DDIMScheduler(), id2label=names)
    built.register_to_config(id2label=names)
    built.save_pretrained(folder / "pipe", safe_serialization=True)


def import_pipeline(folder: Path, harmed: str) -> None:
    """All of `ldm import` but the writing."""
    settings = Import(path=folder / "pipe")
    given = import_model._open(settings, Silent())
    autoencoder = import_model._load_autoencoder(given, Silent())
    import_model._metadata(settings, given.denoiser, autoencoder, import_model._names(settings, given))
    import_model._denoiser_metadata(settings, given)
    autoencoder.decode(torch.zeros(1, autoencoder.latent_channels, 4, 4))


def take_autoencoder(folder: Path, harmed: str) -> None:
    given = registry.load(folder / "pipe" / "vae")
    given.latent_shape(16)
    given.encode(torch.zeros(1, 3, 16, 16))
    import_autoencoder(folder / "pipe" / "vae").encode(torch.zeros(1, 3, 16, 16))


def make_authors(folder: Path) -> None:
    torch.save({"ema": random_checkpoint(width=8, depth=1), "epoch": 3}, folder / "dit.pt")


def import_authors(folder: Path, harmed: str) -> None:
    model = load_dit(folder / "dit.pt", heads=2)
    model(torch.zeros(1, 4, 8, 8), torch.zeros(1), {"labels": torch.zeros(1, dtype=torch.int64)})


def _extractor() -> Extractor:
    return Extractor("two", 2, "0" * 64, "none", None, torch.device("cpu"), lambda images: (images, images))


def make_statistics(folder: Path) -> None:
    save_statistics(GaussianStatistics(3, torch.zeros(2).double(), torch.eye(2).double()), _extractor(), folder)


def read_statistics(folder: Path, harmed: str) -> None:
    load_statistics(folder, _extractor())


def seal_statistics(folder: Path, harmed: str) -> None:
    with contextlib.suppress(Exception):
        if not harmed.endswith(DESCRIPTION):
            described = json.loads((folder / DESCRIPTION).read_bytes())
            described["sha256"] = files.sha256_file(folder / harmed)
            (folder / DESCRIPTION).write_text(json.dumps(described))


def make_features(folder: Path) -> None:
    keep_features(Features(torch.zeros(3, 2), torch.zeros(3, 4)), {"seed": 0}, folder)


def take_features(folder: Path, harmed: str) -> None:
    """What is damaged is as if it were not there."""
    kept = kept_features({"seed": 0}, folder)
    if kept is not None:
        statistics_of(kept.features)


def seal_features(folder: Path, harmed: str) -> None:
    with contextlib.suppress(Exception):
        if harmed == reference.TENSORS:
            described = json.loads((folder / reference.DESCRIPTION).read_bytes())
            described["sha256"] = files.sha256_file(folder / harmed)
            (folder / reference.DESCRIPTION).write_text(json.dumps(described))


NETWORK_PARSERS = {
    "checkpoint": Parser(
        make_training,
        {
            **{f"{NEWEST}/{name}": in_json for name in ("state.json", MANIFEST)},
            **{f"{NEWEST}/{name}.safetensors": in_header for name in ("model", "optimizer")},
        },
        (go_on_training, look_at_checkpoint),
        seal_training,
    ),
    "pipeline": Parser(make_pipeline, {f"pipe/{name}": in_json for name in PIPE}, (import_pipeline,)),
    "autoencoder-of-others": Parser(make_pipeline, {"pipe/vae/config.json": in_json}, (take_autoencoder,)),
    "weights-of-others": Parser(
        make_pipeline,
        {f"pipe/{part}/{WEIGHTS}": in_header for part in ("transformer", "vae")},
        (import_pipeline, take_autoencoder),
    ),
    "pt": Parser(make_authors, {"dit.pt": in_zip}, (import_authors,)),
    "statistics": Parser(
        make_statistics,
        {"statistics.json": in_json, "statistics.safetensors": in_header},
        (read_statistics,),
        seal_statistics,
    ),
    "features": Parser(
        make_features,
        {reference.DESCRIPTION: in_json, reference.TENSORS: in_header},
        (take_features,),
        seal_features,
    ),
}
