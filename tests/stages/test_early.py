"""A training keeps an early state of itself, of which it can be guided away, and which can be drawn from."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ldm.core.errors import DataError, Stopped
from ldm.core.progress import Silent
from ldm.core.runs.run import MANIFEST
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from tests.support.pipeline_run import Pipeline, Stopping, manifest, pngs

EARLY = {"train__early": 28, "train__checkpoint_every": 32}  # images; steps are of 8


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "final" / "model.safetensors")


@pytest.fixture(scope="module")
def kept(trained: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run whose denoiser kept its state after 32 images; not to be changed."""
    pipeline = trained.copy(tmp_path_factory.mktemp("kept"))
    shutil.rmtree(pipeline.folder / "dit")
    pipeline.run("train-dit", **EARLY)
    return pipeline


def test_the_state_is_the_average_after_the_first_step_that_has_so_many_images(kept: Pipeline) -> None:
    dit = kept.folder / "dit"
    early, average = weights(dit / "early"), load_file(dit / "checkpoints" / "0000000032" / "ema.safetensors")
    assert early.keys() == average.keys() and all(torch.equal(early[name], average[name]) for name in early)
    assert any(not torch.equal(early[name], tensor) for name, tensor in weights(dit).items())
    assert manifest(dit / "early")["facts"]["images_seen"] == 32
    assert verify.run(Verify(path=kept.folder), Silent()).verdict == "is whole"


@pytest.mark.parametrize("stop_at", [24, 32, 40])
def test_wherever_a_training_was_stopped_it_keeps_the_same_state(
    copied: Pipeline, kept: Pipeline, stop_at: int
) -> None:
    shutil.rmtree(copied.folder / "dit")
    with pytest.raises(Stopped):
        copied.run("train-dit", Stopping(stop_at), **EARLY)
    copied.run("train-dit", **EARLY)
    for state in ("dit", "dit/early"):
        own, whole = weights(copied.folder / state), weights(kept.folder / state)
        assert all(torch.equal(own[name], tensor) for name, tensor in whole.items())


def test_guiding_away_from_it_is_guiding_away_from_its_folder(kept: Pipeline) -> None:
    how = {"num": 2, "seed": 5, "steps": 3, "autoguide_scale": 30.0}
    named = pngs(kept.run("sample", **how, autoguide="early", label="named").directory)
    assert named == pngs(kept.run("sample", **how, autoguide=kept.folder / "dit" / "early", label="path").directory)
    assert named != pngs(kept.run("sample", num=2, seed=5, steps=3, label="alone").directory)
    assert pngs(kept.run("sample", num=2, checkpoint="early", label="itself").directory)
    given = kept.run("sample", **how, denoiser=kept.folder / "dit", autoguide="early", label="of another").directory
    assert pngs(given) == named


@pytest.mark.parametrize("how", [{"checkpoint": "early"}, {"autoguide": "early", "autoguide_scale": 30.0}])
def test_an_image_is_drawn_again_from_the_state_or_away_from_it(kept: Pipeline, how: dict[str, object]) -> None:
    label = "-".join(how)
    first = kept.run("sample", num=1, steps=3, seed=5, classes="0", label=f"first-{label}", **how).directory
    image = next(first.glob("*.png"))
    again = kept.run("sample", like=image, num=1, label=f"again-{label}").directory
    assert next(again.glob("*.png")).read_bytes() == image.read_bytes()
    drawn = manifest(again)["facts"]
    assert drawn["sampling"] == manifest(first)["facts"]["sampling"]


def test_a_training_that_is_too_short_keeps_none_and_says_so(trained: Pipeline, copied: Pipeline) -> None:
    with pytest.raises(
        DataError, match=r"keeps no early state: its training is shorter than `train\.early`"
    ) as refused:
        trained.run("sample", num=1, autoguide="early")
    assert "`autoguide=PATH`" in str(refused.value.remedy)
    copied.run("train-dit", replace=True, train__early=0, train__images=72)
    assert not (copied.folder / "dit" / "early").exists()


def test_a_torn_early_state_is_named_and_the_training_is_whole_without_it(copied: Pipeline, kept: Pipeline) -> None:
    shutil.rmtree(copied.folder / "dit")
    shutil.copytree(kept.folder / "dit", copied.folder / "dit")
    early = copied.folder / "dit" / "early"
    (early / MANIFEST).unlink()
    with pytest.raises(DataError, match=r"early has no manifest\.json"):
        verify.run(Verify(path=copied.folder), Silent())
    shutil.rmtree(early)
    assert verify.run(Verify(path=copied.folder), Silent()).verdict == "is whole"
    assert copied.run("train-dit", **EARLY).already_complete
