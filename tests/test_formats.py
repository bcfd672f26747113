"""docs/formats.md names files and fields that a run has, and leaves out none of a manifest's or a checkpoint's."""

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from ldm.core.runs import checkpoint, run
from tests.support.pipeline_run import Pipeline, manifest

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", PAGE, re.M | re.S)
    assert found, f"no section {heading}"
    return found[1]


def tables(heading: str) -> list[list[str]]:
    """Return the names in the first column of each table under a heading."""
    found = re.findall(r"^\|---.*\n((?:\|.*\n)+)", section(heading), re.M)
    return [re.findall(r"`([^`]+)`", "\n".join(re.findall(r"^\| (.*?) \|", table, re.M))) for table in found]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def evaluated(trained: Pipeline) -> Pipeline:
    """The trained run with samples and their numbers."""
    trained.run("sample", label="formats")
    trained.run("eval", samples="formats")
    return trained


@pytest.mark.parametrize("kind", ["vqvae", "latents", "dit", "classifier"])
def test_the_fields_of_a_manifest_are_those_on_the_page(kind: str, trained: Pipeline) -> None:
    found = manifest(trained.folder / kind)
    (fields,) = tables("The manifest")
    assert sorted(fields) == sorted(found)
    (fields,) = tables("Provenance")
    assert sorted(fields) == sorted(found["provenance"])
    (fields,) = tables(f"Metadata of {kind}")
    assert set(fields) <= set(found["facts"])


def test_the_metadata_of_samples_are_those_on_the_page(evaluated: Pipeline) -> None:
    facts = manifest(evaluated.folder / "samples" / "formats")["facts"]
    (fields,) = tables("Metadata of samples")
    assert sorted(fields) == sorted(facts)
    assert {"file", "label", "class", "seed"} == set(facts["images"][0])


def test_the_metadata_of_edits_are_those_on_the_page(trained: Pipeline) -> None:
    facts = manifest(trained.run("edit", classes="red", label="formats").directory)["facts"]
    (fields,) = tables("Metadata of edits")
    assert sorted(fields) == sorted(facts)
    assert {"file", "image", "label", "class", "seed", "strength", "snr_db"} == set(facts["images"][0])


@pytest.mark.parametrize("kind", ["vqvae", "dit", "classifier"])
def test_a_trained_folder_has_the_files_on_the_page(kind: str, trained: Pipeline) -> None:
    (named,) = tables("A run")
    there = {path.name for path in (trained.folder / kind).iterdir()} - {"reconstructions", "samples"}
    assert there == set(named) - ({"generator.json"} if kind != "dit" else set())


@pytest.mark.parametrize("kind", ["vqvae", "dit", "classifier"])
def test_a_checkpoint_has_the_files_and_the_state_on_the_page(kind: str, trained: Pipeline) -> None:
    path = checkpoint.saved(trained.folder / kind)[-1]
    files, state = tables("Checkpoints")
    assert sorted(files) == sorted(entry.name for entry in path.iterdir())
    assert sorted(state) == sorted(json.loads((path / "state.json").read_text()))


def test_the_final_network_says_what_the_page_says(trained: Pipeline) -> None:
    (fields,) = tables("final")
    for kind, further in (("vqvae", ("latent_mean", "latent_std")), ("dit", ("diffusion", "class_names"))):
        config = json.loads((trained.folder / kind / "final" / "config.json").read_text())
        assert {*fields, *further} <= set(config)
        assert all(f"`{name}`" in section("final") for name in further)


def test_a_shard_has_the_members_on_the_page(trained: Pipeline) -> None:
    (members,) = tables("Latent shards")
    with tarfile.open(trained.folder / "latents" / "shard-000000.tar") as tar:
        names = {re.sub(r"^\d{9}", "KEY", member.name) for member in tar}
        source = json.load(tar.extractfile("000000000.json"))  # type: ignore[arg-type]
    optional = ("std", "NAME", "KEY.txt", "mask", "crop")  # of other settings
    assert names == {name for name in members if not any(part in name for part in optional)}
    assert set(source) == {"name", "label"}
    index = load_file(trained.folder / "latents" / "index.safetensors")
    for name in ("shard", "label", "npy", "npy.crc32", "flip.npy"):
        assert f"`SPLIT.{name}`" in section("Latent shards") and f"train.{name}" in index
        assert (f"val.{name}" in index) == ("flip" not in name)


def test_the_lines_of_metrics_have_the_fields_on_the_page(trained: Pipeline) -> None:
    always, training = map(set, tables("metrics.jsonl"))
    said = set(re.findall(r"`([a-z_]+)`", section("metrics.jsonl"))) - {"real_against_real", "conditions"}
    for kind in ("vqvae", "dit", "classifier"):
        found = lines(trained.folder / kind)
        assert all(always <= set(line) <= said for line in found)
        assert any(training <= set(line) for line in found)
    assert said <= {
        name for kind in ("vqvae", "dit", "classifier") for line in lines(trained.folder / kind) for name in line
    }


def test_metrics_json_has_the_fields_on_the_page(evaluated: Pipeline) -> None:
    found = json.loads((evaluated.folder / "eval" / "formats" / "metrics.json").read_text())
    fields, conditions = tables("metrics.json")
    assert sorted(fields) == sorted(found)
    assert sorted(conditions) == sorted(found["conditions"])


@pytest.mark.slow
def test_an_export_has_the_files_on_the_page(exported: Path) -> None:
    named, recorded = tables("Exports")
    assert sorted(named) == sorted(
        path.relative_to(exported).as_posix() for path in exported.rglob("*.*") if path.is_file()
    )
    assert set(recorded) == set(json.loads((exported / "ldm-export.json").read_text()))


def test_the_versions_on_the_page_are_those_that_are_written() -> None:
    assert f"| `schema` | version of the format, {run.SCHEMA} |" in section("The manifest")
    assert f"`schema` {checkpoint.SCHEMA}, " in section("Checkpoints")
