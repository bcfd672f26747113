"""Images on the list that `data.exclude` names are in nothing that the stages make, and the list is part of the run."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from ldm.core.errors import ConfigError, DataError
from ldm.core.images.exclusion import read_exclusion, write_exclusion
from ldm.core.images.sets import image_sources
from ldm.core.images.settings import Data
from ldm.core.images.sources import open_splits
from ldm.core.metrics import inputs
from ldm.core.progress import Silent
from ldm.core.runs.roles import AUTOENCODER
from ldm.core.runs.run import MANIFEST, open_run
from ldm.stages.configs.folders import Inspect
from ldm.stages.tools import inspect
from tests.support.pipeline_run import Pipeline, manifest

LEFT_OUT = ["blue/003.png", "green/010.png", "red/039.png"]


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of three images of one side each or both: whatever the split makes of them."""
    path = tmp_path_factory.mktemp("lists") / "twins.txt"
    write_exclusion(path, LEFT_OUT, ["three twins"])
    return path


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory, images: Path, listed: Path) -> Pipeline:
    """An autoencoder, latents and a classifier made without the listed images; the list is named to the first alone."""
    pipeline = Pipeline(tmp_path_factory.mktemp("without"), images)
    pipeline.run("train-vqvae", data__exclude=listed, train__images=16)
    return pipeline.through("encode", "train-classifier")


def test_each_stage_records_the_hash_of_the_list_and_later_stages_take_it_over(without: Pipeline, listed: Path) -> None:
    for stage in ("vqvae", "latents", "classifier"):
        made = manifest(without.folder / stage)
        assert made["inputs"]["exclude"] == {
            "path": listed.as_posix(),
            "fingerprint": read_exclusion(listed).sha256,
            "images": 3,
        }
        assert made["config"]["data"]["exclude"] == listed.as_posix()


def test_no_listed_image_is_encoded_and_every_other_one_is(without: Pipeline) -> None:
    found = manifest(without.folder / "latents")["facts"]
    names = []
    for shard in (without.folder / "latents").glob("*.tar"):
        with tarfile.open(shard) as archive:
            sidecars = [archive.extractfile(member) for member in archive if member.name.endswith(".json")]
            names += [json.load(file)["name"] for file in sidecars if file]
    assert len(names) == len(set(names)) == sum(found["samples"].values()) == 117
    assert not set(names) & set(LEFT_OUT)


def test_evaluations_take_the_images_that_were_not_left_out(without: Pipeline, images: Path) -> None:
    made = open_run(without.folder / "vqvae", AUTOENCODER, "ldm train-vqvae")
    both = [inputs.reference_images(without.config("eval"), made, Silent(), part)[0] for part in (False, True)]
    everything = open_splits(str(images), val_fraction=0.25)
    for ours, theirs in zip(both, everything, strict=True):
        assert set(ours.names) == set(theirs.names) - set(LEFT_OUT)


def test_a_run_with_another_list_or_none_is_another_run(without: Pipeline, tmp_path: Path) -> None:
    copied = without.copy(tmp_path)
    mine = tmp_path / "mine.txt"
    write_exclusion(mine, LEFT_OUT[:2])
    for other in (mine, None):
        with pytest.raises(ConfigError, match="; exclude: other contents"):
            copied.run("train-vqvae", data__exclude=other, train__images=16)


def test_a_list_that_changed_is_noticed_and_its_order_and_comments_are_not_the_list(
    images: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "list.txt"
    write_exclusion(listed, LEFT_OUT)
    own = Pipeline(tmp_path / "runs", images)
    folder = own.run("train-vqvae", data__exclude=listed, train__images=8).directory
    write_exclusion(listed, reversed(LEFT_OUT), ["the same"])
    assert own.run("train-vqvae", data__exclude=listed, train__images=8).already_complete
    assert inspect.run(Inspect(path=folder), Silent()).summary["of exclude"].endswith("list.txt: still the same")
    write_exclusion(listed, LEFT_OUT[1:])
    assert inspect.run(Inspect(path=folder), Silent()).summary["of exclude"].endswith("changed since")
    with pytest.raises(ConfigError, match="data: other contents; exclude: other contents"):
        own.run("train-vqvae", data__exclude=listed, train__images=8)
    shutil.move(listed, tmp_path / "elsewhere.txt")
    assert inspect.run(Inspect(path=folder), Silent()).summary["of exclude"].endswith("not there")


def test_an_unknown_name_is_refused_before_anything_is_made(images: Path, tmp_path: Path) -> None:
    write_exclusion(tmp_path / "list.txt", ["blue/000.png", "blue/twin of 000.png"])
    own = Pipeline(tmp_path / "runs", images)
    with pytest.raises(DataError, match=r"lists what is not an image of .*: blue/twin of 000\.png"):
        own.run("train-vqvae", data__exclude=tmp_path / "list.txt")
    assert not (own.folder / "vqvae" / MANIFEST).exists()


def test_what_is_left_out_is_reported_before_training(images: Path, listed: Path) -> None:
    assert image_sources(Data(source=str(images), exclude=listed)).described.endswith(f"; 3 left out by {listed}")
