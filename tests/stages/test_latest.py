"""`--checkpoint latest`: images of a training that is not finished, from the EMA in its newest checkpoint."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ldm
from ldm.core.errors import DataError
from ldm.core.pipeline.latest import LATEST, OUTLINE
from ldm.core.progress import Silent
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from tests.support.pipeline_run import Pipeline, pngs


@pytest.fixture
def begun(trained: Pipeline, tmp_path: Path) -> Pipeline:
    """A run whose denoiser was trained for 64 images, with checkpoints after 32 and 64, and is not finished."""
    pipeline = trained.copy(tmp_path)
    (pipeline.folder / "dit" / "manifest.json").unlink()
    shutil.rmtree(pipeline.folder / "dit" / "final")
    return pipeline


def draw(pipeline: Pipeline, **changes: object) -> Path:
    return pipeline.run("sample", num=2, checkpoint="latest", **changes).directory


def test_its_images_are_those_that_the_finished_training_draws(trained: Pipeline, begun: Pipeline) -> None:
    """The last checkpoint is that of the end, whose EMA `final/` has."""
    expected = trained.run("sample", num=2, label="at-the-end").directory
    folder = draw(begun)
    assert pngs(folder) == pngs(expected)
    ema = load_file(begun.folder / "dit" / "checkpoints" / "0000000064" / "ema.safetensors")
    drawn = load_file(begun.folder / "dit" / LATEST / "final" / "model.safetensors")
    assert all(torch.equal(ema[name], drawn[name]) for name in ema) and ema.keys() == drawn.keys()
    recorded = json.loads((folder / "manifest.json").read_text())["facts"]["sampling"]
    assert recorded["checkpoint"] == "latest, after 64 images" and "latest-64" in folder.name


def test_from_python_an_unfinished_training_draws_the_same(begun: Pipeline) -> None:
    drawn = pngs(draw(begun, classes="red", label="red"))
    images = ldm.open(begun.folder, checkpoint="latest", device="cpu", precision="fp32").sample("red", [0, 1], steps=3)
    assert [drawn[name] for name in sorted(drawn)] == [image.tobytes() for image in images]


def test_they_are_evaluated_verified_and_drawn_again_as_others_are(begun: Pipeline) -> None:
    folder = begun.run("sample", num=8, checkpoint="latest", label="early").directory
    numbers = json.loads((begun.run("eval", samples="early").directory / "metrics.json").read_text())
    assert numbers["conditions"]["sampling"]["checkpoint"] == "latest, after 64 images"
    assert verify.run(Verify(path=folder), Silent()).exit_code == 0
    assert verify.run(Verify(path=begun.folder / "dit" / LATEST), Silent()).exit_code == 0
    image = next(iter(sorted(folder.glob("[0-9]*.png"))))
    again = begun.run("sample", like=image, label="again", num=1).directory
    assert [*pngs(again).values()] == [pngs(folder)[image.name]]


def test_a_newer_checkpoint_takes_its_place_and_the_old_images_stay(begun: Pipeline) -> None:
    newest = begun.folder / "dit" / "checkpoints" / "0000000064"
    aside = shutil.move(newest, begun.folder / "aside")
    before = draw(begun)
    kept = (begun.folder / "dit" / LATEST / "manifest.json").read_bytes()
    assert draw(begun, seed=1) != before
    assert (begun.folder / "dit" / LATEST / "manifest.json").read_bytes() == kept, "made once of a checkpoint"
    shutil.move(aside, newest)
    after = draw(begun)
    assert "latest-32" in before.name and "latest-64" in after.name
    seen = [json.loads((folder / "manifest.json").read_text())["inputs"]["denoiser"] for folder in (before, after)]
    assert seen[0]["fingerprint"] != seen[1]["fingerprint"]


def test_the_training_goes_on_and_ends_as_if_nobody_had_drawn(trained: Pipeline, begun: Pipeline) -> None:
    draw(begun)
    begun.run("train-dit")
    for name in ("final/model.safetensors", "final/config.json", OUTLINE):
        assert (begun.folder / "dit" / name).read_bytes() == (trained.folder / "dit" / name).read_bytes(), name


def test_without_the_setting_the_message_names_it_and_without_a_checkpoint_it_says_so(begun: Pipeline) -> None:
    with pytest.raises(DataError, match=r"unfinished, after 64 images, and can be drawn .* with `checkpoint=latest`"):
        begun.run("sample", num=2)
    shutil.rmtree(begun.folder / "dit" / "checkpoints")
    with pytest.raises(DataError, match="dit has no checkpoint"):
        draw(begun)


def test_a_training_that_an_older_version_finished_is_drawn_from_too(trained: Pipeline, tmp_path: Path) -> None:
    pipeline = trained.copy(tmp_path)
    (pipeline.folder / "dit" / OUTLINE).unlink()
    assert pngs(draw(pipeline)) == pngs(pipeline.run("sample", num=2, label="end").directory)


def test_a_damaged_checkpoint_and_outline_are_named(begun: Pipeline) -> None:
    newest = begun.folder / "dit" / "checkpoints" / "0000000064" / "ema.safetensors"
    whole = newest.read_bytes()
    newest.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match=r"ema\.safetensors is damaged"):
        draw(begun)
    newest.write_bytes(whole)
    outline = begun.folder / "dit" / OUTLINE
    outline.write_text(outline.read_text().replace('"red"', '"rod"'))
    with pytest.raises(DataError, match=rf"{OUTLINE} is damaged: it differs from its own sha256") as caught:
        draw(begun)
    assert str(caught.value.remedy).startswith(f"remove {outline}; then go on with the training, which writes it: ldm")
    unsealed = {"network": {}, "outputs": {}}  # as of before they were sealed
    outline.write_text(json.dumps(unsealed))
    with pytest.raises(DataError, match=rf"{OUTLINE} is damaged: inputs"):
        draw(begun)
    outline.unlink()
    with pytest.raises(DataError, match=rf"dit has no {OUTLINE}: an older ldm began it"):
        draw(begun)
    begun.run("train-dit")
    assert len(pngs(draw(begun))) == 6, "the training wrote it"
