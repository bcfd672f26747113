"""R3, R4, R19, R20, R21: what is damaged, old or does not fit together is found, named, and never used."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm.core import files
from ldm.core.errors import ConfigError, DataError
from ldm.core.latents.sharded import ShardedLatents
from ldm.core.progress import Silent
from ldm.core.runs import checkpoint
from ldm.core.runs.inputs import own_folders
from ldm.core.runs.roles import AUTOENCODER, DENOISER, LATENTS
from ldm.core.runs.run import MANIFEST, SCHEMA, open_run
from ldm.stages.configs.folders import Verify
from ldm.stages.table import STAGES
from ldm.stages.tools import verify
from tests.support.forgery import forget_owner
from tests.support.ledger import Trials
from tests.support.pipeline_run import Pipeline, write_squares

OLD_FILES = Path(__file__).with_name("old_files")
BLOCK = 4096


def flip_a_bit(whole: bytes, random: np.random.Generator) -> bytes:
    place = int(random.integers(len(whole)))
    return whole[:place] + bytes([whole[place] ^ 1 << int(random.integers(8))]) + whole[place + 1 :]


def truncate(whole: bytes, random: np.random.Generator) -> bytes:
    return whole[: int(random.integers(len(whole)))]


def zero_a_block(whole: bytes, random: np.random.Generator) -> bytes:
    """Zero 4 KB that are not all zero already, as a lost page of a disk would be."""
    while True:
        place = int(random.integers(len(whole)))
        if any(whole[place : place + BLOCK]):
            return (whole[:place] + bytes(BLOCK) + whole[place + BLOCK :])[: len(whole)]


@pytest.mark.promise("R3", quick=10, full=100)
@pytest.mark.parametrize("stage", ["dit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vqvae", "var"))])
@pytest.mark.parametrize("harm", ["flip", "truncate", "delete"])
def test_a_harmed_checkpoint_is_named_and_the_one_before_is_taken(
    harm: str, stage: str, trials: Trials, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: Pipeline = request.getfixturevalue("next_scale" if stage == "var" else "trained")
    shutil.copytree(run.folder / stage / checkpoint.FOLDER, tmp_path / checkpoint.FOLDER)
    newest = tmp_path / checkpoint.FOLDER / "0000000064"
    names = sorted(path.name for path in newest.iterdir())
    assert names == [f"{group}.safetensors" for group in ("ema",)] + [MANIFEST, *names[2:]]
    for random in trials:
        path = newest / names[int(random.integers(len(names)))]
        whole = path.read_bytes()
        if harm == "delete":
            path.unlink()
        else:
            path.write_bytes((flip_a_bit if harm == "flip" else truncate)(whole, random))
        warnings: list[str] = []
        found = checkpoint.newest(tmp_path, warnings.append)
        path.write_bytes(whole)
        assert found is not None and found.state["images"] == 32
        assert len(warnings) == 1 and str(path) in warnings[0] and "passing over a checkpoint" in warnings[0]
    found = checkpoint.newest(tmp_path, lambda message: pytest.fail(message))
    assert found is not None and found.state["images"] == 64


@pytest.mark.promise("R4", quick=20, full=300)
@pytest.mark.parametrize(
    "of",
    ["labels", *(pytest.param(of, marks=pytest.mark.slow) for of in ("captions", "tokens", "attributes and masks"))],
)
@pytest.mark.parametrize("harm", [truncate, flip_a_bit, zero_a_block])
def test_every_harm_to_a_shard_is_named_before_a_latent_of_it_is_used(
    harm: Callable[[bytes, np.random.Generator], bytes],
    of: str,
    trials: Trials,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    fixture = {"tokens": "next_scale", "attributes and masks": "as_they_are"}.get(of, "trained")
    run: Pipeline = request.getfixturevalue(fixture).copy(tmp_path)
    if of == "captions":
        run.run("encode", data__caption_template="a photo of a {class}", replace=True)
    folder = run.folder / "latents"
    shards = sorted(folder.glob("*.tar"))
    for random in trials:
        path = shards[int(random.integers(len(shards)))]
        whole = path.read_bytes()
        path.write_bytes(harm(whole, random))
        with pytest.raises(DataError) as caught:
            open_run(folder, LATENTS, "ldm encode").verify()
        path.write_bytes(whole)
        assert str(path) in caught.value.message and "ldm encode" in str(caught.value.remedy)


@pytest.mark.promise("R4", quick=1, full=5)
def test_training_does_not_start_on_a_harmed_shard(trials: Trials, copied: Pipeline) -> None:
    shutil.rmtree(copied.folder / "dit")
    shards = sorted((copied.folder / "latents").glob("*.tar"))
    for random in trials:
        path = shards[int(random.integers(len(shards)))]
        whole = path.read_bytes()
        path.write_bytes(flip_a_bit(whole, random))
        with pytest.raises(DataError, match=path.name):
            copied.run("train-dit")
        path.write_bytes(whole)
        assert not (copied.folder / "dit" / checkpoint.FOLDER).exists()


@pytest.mark.promise("R19")
@pytest.mark.parametrize("folder", sorted(OLD_FILES.iterdir()), ids=lambda folder: folder.name)
def test_the_files_of_every_released_schema_load(folder: Path, tmp_path: Path) -> None:
    """Each is a run kept from when its schema was the newest. Remove none; write the next with `keep.py` beside it."""
    from ldm.core.autoencoders import registry as autoencoders
    from ldm.core.denoisers import registry as denoisers

    kept = Path(shutil.copytree(folder, tmp_path / "kept"))
    assert verify.run(Verify(path=kept), Silent()).verdict == "is whole"
    (autoencoder,), (denoiser,) = own_folders(AUTOENCODER, kept), own_folders(DENOISER, kept)
    autoencoders.load(autoencoder / "final")
    denoisers.load(denoiser / "final")
    latents = open_run(kept / "latents", LATENTS, "ldm encode")
    facts = latents.metadata
    train = ShardedLatents(latents.path, "train", facts["shards"]["train"], tuple(facts["latent_shape"]))
    assert train.array("npy", np.arange(4)).isfinite().all()
    found = checkpoint.newest(denoiser, lambda message: pytest.fail(message))
    assert found is not None and found.groups.keys() == {"model", "ema", "optimizer"}


@pytest.mark.promise("R19")
def test_the_present_schema_has_its_kept_files() -> None:
    assert (OLD_FILES / f"schema-{SCHEMA}" / "dit" / MANIFEST).is_file(), "keep a run of it: see keep.py"


@pytest.mark.promise("R19", quick=5, full=5)
def test_files_of_an_unknown_schema_are_refused_with_what_to_do(trials: Trials, copied: Pipeline) -> None:
    places = [
        ("vqvae/manifest.json", "schema", lambda: copied.run("encode", replace=True)),
        ("latents/manifest.json", "schema", lambda: copied.run("train-dit", replace=True)),
        ("dit/manifest.json", "schema", lambda: copied.run("sample")),
        ("alone/config.json", "format", lambda: load_denoiser(copied.folder / "alone")),
        ("dit/checkpoints/0000000064/manifest.json", "schema", lambda: load_checkpoint(copied.folder / "dit")),
    ]
    shutil.copytree(copied.folder / "dit" / "final", copied.folder / "alone")
    for _, (name, key, use) in zip(trials, places, strict=True):
        path = copied.folder / name
        whole = path.read_bytes()
        whole_but_newer = {**files.read_json(path), key: 99}
        whole_but_newer.pop("manifest_sha256", None)
        files.write_json(path, files.sealed(whole_but_newer, "manifest_sha256"))
        with pytest.raises(DataError, match=f"has {key} 99; this ldm reads 1") as caught:
            use()
        assert str(path) in caught.value.message and "upgrade ldm" in str(caught.value.remedy)
        path.write_bytes(whole)


def load_denoiser(folder: Path) -> None:
    from ldm.core.denoisers import registry

    registry.load(folder)


def load_checkpoint(folder: Path) -> None:
    checkpoint.load(folder / checkpoint.FOLDER / "0000000064")


@dataclass(frozen=True)
class Disagreement:
    """A resume with other settings: the stage, what is asked, and the key that the refusal names."""

    command: str
    named: str
    asked: dict[str, Any] = field(default_factory=dict)


DISAGREEMENTS = [
    Disagreement("train-dit", "model.depth: 2 → 3", {"model__depth": 3}),
    Disagreement("train-dit", "model.width: 32 → 64", {"model__width": 64}),
    Disagreement("train-dit", "diffusion.prediction: 'v' → 'eps'", {"diffusion": {"prediction": "eps"}}),
    Disagreement("train-dit", "train.images: 64 → 32", {"train__images": 32}),
    Disagreement("train-vqvae", "model.codebook_size: 16 → 32", {"model__codebook_size": 32}),
    Disagreement("train-vqvae", "model.channels: 8 → 16", {"model__channels": 16}),
    Disagreement("train-vqvae", "data: other contents"),
    Disagreement("train-classifier", "data: other contents"),
    Disagreement("encode", "shard_size: 16 → 8", {"shard_size": 8}),
]


@pytest.mark.promise("R20", quick=9, full=9)
@pytest.mark.parametrize("finished", [True, False], ids=["finished", "half-way"])
def test_other_settings_or_data_are_refused_by_name_and_harm_nothing(
    finished: bool, trials: Trials, copied: Pipeline, tmp_path: Path
) -> None:
    others = write_squares(tmp_path / "others", per_class=6)
    for stage in ("vqvae", "dit", "classifier", "latents"):
        if not finished:
            (copied.folder / stage / MANIFEST).unlink()
    for _, each in zip(trials, DISAGREEMENTS, strict=True):
        before = {path: path.stat().st_mtime_ns for path in copied.folder.rglob("*") if path.name != ".lock"}
        asked = each.asked or {"data": {**copied.config("train-vqvae").data.model_dump(), "source": str(others)}}
        if not finished and each.command in ("encode", "train-dit"):  # These first refuse what they are made of.
            with pytest.raises(DataError, match="is unfinished"):
                copied.run(each.command, **asked)
            continue
        with pytest.raises(ConfigError) as caught:
            copied.run(each.command, **asked)
        assert each.named in caught.value.message and "`replace`" in str(caught.value.remedy)
        assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.promise("R20", quick=3, full=3)
def test_a_checkpoint_of_another_network_is_refused_by_name(trials: Trials, copied: Pipeline, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{"model__depth": 3}, {"model__width": 64}, {"model__swiglu": True}]
    for _, change in zip(trials, changes, strict=True):
        own = Pipeline(tmp_path / str(change), copied.images)
        latents = copied.folder / "latents"
        other = own.run("train-dit", latents=latents, **change).directory
        shutil.rmtree(copied.folder / "dit" / checkpoint.FOLDER)
        shutil.copytree(other / checkpoint.FOLDER, copied.folder / "dit" / checkpoint.FOLDER)
        (copied.folder / "dit" / MANIFEST).unlink(missing_ok=True)
        with pytest.raises(DataError, match=r"no checkpoint in .* is whole and of this training"):
            copied.run("train-dit")
        for path in (copied.folder / "dit" / checkpoint.FOLDER).iterdir():  # As of before they recorded whose they are.
            forget_owner(path)
        identity = files.read_json(copied.folder / "dit" / "identity.json")
        identity.pop("bound", None)
        files.write_json(copied.folder / "dit" / "identity.json", identity)
        with pytest.raises(DataError, match="does not fit the network: ") as caught:
            copied.run("train-dit")
        assert str(copied.folder / "dit" / checkpoint.FOLDER) in caught.value.message
        assert str(caught.value.remedy).startswith(f"remove {copied.folder / 'dit' / checkpoint.FOLDER}: ")
    shutil.rmtree(copied.folder / "dit" / checkpoint.FOLDER)
    assert not copied.run("train-dit").already_complete


HANDOVERS = [
    ("encode", "vqvae", "ldm train-vqvae"),
    ("train-dit", "latents", "ldm encode"),
    ("train-dit", "vqvae", "ldm train-vqvae"),
    ("sample", "dit", "ldm train-dit"),
    ("sample", "vqvae", "ldm train-vqvae"),
    ("edit", "dit", "ldm train-dit"),
    ("edit", "vqvae", "ldm train-vqvae"),
    ("eval", "classifier", "ldm train-classifier"),
    ("eval", "dit", "ldm train-dit"),
]


@pytest.mark.promise("R21", quick=9, full=9)
@pytest.mark.parametrize("harm", ["missing", "half-written", "damaged"])
def test_a_stage_refuses_an_input_that_is_not_whole_and_names_the_command(
    harm: str, trials: Trials, copied: Pipeline
) -> None:
    copied.run("sample", num=8, label="some")
    for _, (command, stage, named) in zip(trials, HANDOVERS, strict=True):
        aside = copied.folder.with_name("aside")
        shutil.copytree(copied.folder, aside)
        if harm == "missing":
            shutil.rmtree(copied.folder / stage)
        elif harm == "half-written":
            (copied.folder / stage / MANIFEST).unlink()
        else:
            shutil.rmtree(copied.folder / STAGES[command].writes[0].name, ignore_errors=command in ("edit", "eval"))
            for path in (copied.folder / stage).glob("final/*" if stage != "latents" else "*.tar"):
                path.write_bytes(path.read_bytes()[:-1] + b"?")
        changes: dict[str, Any] = {"samples": "some"} if command == "eval" else {}
        with pytest.raises(DataError) as caught:
            copied.run(command, **changes)
        assert named in str(caught.value.remedy), caught.value
        assert stage in caught.value.message
        shutil.rmtree(copied.folder)
        aside.rename(copied.folder)


@pytest.mark.promise("R21", quick=1, full=3)
def test_latents_of_an_autoencoder_that_was_retrained_are_refused_by_hash(trials: Trials, copied: Pipeline) -> None:
    for number, _ in enumerate(trials):
        copied.run("train-vqvae", train__images=8, seed=number + 1, replace=True)
        with pytest.raises(DataError, match="latents was made with another autoencoder"):
            copied.run("train-dit", replace=True)
        with pytest.raises(DataError, match="dit was made with another autoencoder"):
            copied.run("sample", label="new")
