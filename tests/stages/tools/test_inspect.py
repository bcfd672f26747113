"""`ldm inspect` says what lies at a path, finished or not, and harms nothing by looking."""

import json
import shutil
from pathlib import Path

import pytest

from ldm.cli.main import run
from ldm.core.errors import DataError
from ldm.core.files import sha256_file
from ldm.core.progress import Outcome, Silent
from ldm.core.runs.lock import LOCK, occupy
from ldm.core.runs.pieces import Pieces
from ldm.core.runs.run import MANIFEST
from ldm.core.settings.fields import defaults, identity
from ldm.stages.configs.folders import Inspect
from ldm.stages.table import MAKERS
from ldm.stages.tools import inspect
from ldm.stages.tools.directories import changed_settings
from tests.support.pipeline_run import Pipeline


def inspected(path: Path) -> Outcome:
    return inspect.run(Inspect(path=path), Silent())


def test_a_run_is_a_line_for_each_of_its_stages(trained: Pipeline) -> None:
    summary = inspected(trained.folder).summary
    assert list(summary)[:4] == ["vqvae", "latents", "dit", "classifier"]
    assert all(summary[stage].startswith("complete, ") for stage in ("vqvae", "latents", "dit", "classifier"))


def test_a_stage_says_what_made_it_of_what(trained: Pipeline) -> None:
    outcome = inspected(trained.folder / "dit")
    assert outcome.verdict is not None and outcome.verdict.startswith("is of kind dit: complete")
    summary = outcome.summary
    assert summary["made by"].startswith("ldm train-dit -c ")
    assert "ldm 0." in summary["made with"] and summary["made at"].endswith("Z")
    assert "model.width=32" in summary["settings"] and "seed" not in summary["settings"]
    assert summary["of latents"] == "../latents: still the same"
    assert summary["images_seen"] == "64" and summary["checkpoints"] == "after 32, 64 images"


def test_inputs_that_changed_or_went_are_said_to_have(copied: Pipeline, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(copied.images, tmp_path / "photos"))
    own = Pipeline(tmp_path / "own", photos)
    folder = own.run("train-vqvae", train__images=8).directory
    assert inspected(folder).summary["of data"] == f"{photos}: still the same"
    (photos / "red" / "000.png").unlink()
    assert inspected(folder).summary["of data"] == f"{photos}: changed since"
    shutil.rmtree(photos)
    assert "not to be had here" in inspected(folder).summary["of data"]

    copied.run("train-vqvae", train__images=8, replace=True)
    assert inspected(copied.folder / "latents").summary["of autoencoder"] == "../vqvae: changed since"
    shutil.rmtree(copied.folder / "vqvae")
    assert inspected(copied.folder / "latents").summary["of autoencoder"] == "../vqvae: not there"


def test_an_unfinished_training_says_how_far_it_is_from_its_newest_whole_checkpoint(copied: Pipeline) -> None:
    dit = copied.folder / "dit"
    (dit / MANIFEST).unlink()
    assert inspected(copied.folder).summary["dit"] == "unfinished; a checkpoint after 64 images of 64"
    (dit / "checkpoints" / "0000000064" / "ema.safetensors").write_bytes(b"")
    assert inspected(dit).verdict == "is of kind dit: unfinished; a checkpoint after 32 images of 64"
    assert "model.width=32" in inspected(dit).summary["settings"]
    with occupy(dit):
        owner = (dit / LOCK).read_text()
        assert inspected(copied.folder).summary["dit"].startswith(f"being written by {owner}; a checkpoint after 32")


def test_an_unfinished_encode_or_sample_says_what_is_there(copied: Pipeline) -> None:
    samples = copied.run("sample", num=1, label="one").directory
    for folder, said in ((copied.folder / "latents", "shards"), (samples, "images")):
        (folder / MANIFEST).unlink()
        found = [*folder.glob("*.tar"), *folder.glob("[0-9]*.png")]
        Pieces(folder).add({path.name: sha256_file(path) for path in found})
        assert str(inspected(folder).verdict).endswith(f"{len(found)} {said} so far")


def test_checkpoints_and_networks_are_described_and_damage_is_said(copied: Pipeline) -> None:
    newest = copied.folder / "dit" / "checkpoints" / "0000000064"
    summary = inspected(newest).summary
    assert (summary["state"], summary["images seen"], summary["steps"]) == ("whole", "64", "8")
    assert "tensors of" in summary["optimizer"]
    (newest / "model.safetensors").write_bytes(b"")
    assert "model.safetensors is damaged" in inspected(newest).summary["state"]
    summary = inspected(copied.folder / "dit" / "final").summary
    assert summary["kind"] == "dit" and int(summary["parameters"].replace(",", "")) > 10_000
    (copied.folder / "vqvae" / MANIFEST).write_bytes(b"{}")
    assert inspected(copied.folder).summary["vqvae"].startswith("damaged: ")


def test_looking_changes_nothing(copied: Pipeline) -> None:
    def state() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in copied.runs_dir.rglob("*")}

    before = state()
    for path in (copied.runs_dir, copied.folder / "vqvae", copied.folder / "dit" / "checkpoints"):
        inspected(path)
    assert state() == before


def test_json_has_the_same_rows(trained: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(trained.folder / "latents"), "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[-1]["event"] == "outcome"
    assert events[-1]["verdict"].startswith("is of kind latents: complete")
    assert events[-1]["summary"] == inspected(trained.folder / "latents").summary


def test_a_folder_of_photos_is_not_ours(images: Path) -> None:
    with pytest.raises(DataError, match="holds nothing that ldm wrote"):
        inspected(images)


@pytest.mark.parametrize("preset", ["dc-f16-s", "kl-f4-xs", "identity"])
def test_defaults_of_another_family_are_no_changes(preset: str) -> None:
    settings = identity(defaults(MAKERS["autoencoder"].settings, {"model": {"preset": preset}}))
    assert changed_settings("autoencoder", settings) == {"model.preset": preset}
    settings["train"]["lr"] = 0.5
    assert changed_settings("autoencoder", settings) == {"model.preset": preset, "train.lr": 0.5}
