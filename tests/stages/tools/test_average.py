"""`ldm average`: EMAs that a training kept, their combinations, and what opens these as it opens any state."""

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ldm.cli.main import run as ldm
from ldm.core.errors import ConfigError, DataError, Stopped
from ldm.core.progress import Outcome, Silent
from ldm.core.runs import checkpoint
from ldm.core.training.post_hoc import ema_profile, fit
from ldm.stages.configs.average import Average
from ldm.stages.configs.folders import Inspect, Verify
from ldm.stages.tools import average, inspect, verify
from tests.support.pipeline_run import Pipeline, Stopping, manifest, pngs

KEPT = {"train__keep_ema": True, "train__checkpoint_every": 16, "train__images": 160}  # 20 steps, of 8 images each
NAMES = [f"{images:010d}" for images in range(16, 144, 16)]  # but for the two checkpoints that are still there


@pytest.fixture(scope="module")
def kept(trained: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run whose denoiser kept its EMA after every second step; not to be changed but for what is averaged."""
    pipeline = trained.copy(tmp_path_factory.mktemp("kept"))
    shutil.rmtree(pipeline.folder / "dit")
    pipeline.run("train-dit", **KEPT)
    return pipeline


def make(pipeline: Pipeline, **changes: Any) -> Outcome:
    settings = {"name": pipeline.name, "runs_dir": pipeline.runs_dir, **changes}
    return average.run(Average.model_validate(settings), Silent())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "final" / "model.safetensors")


def emas(pipeline: Pipeline) -> dict[str, bytes]:
    folder = pipeline.folder / "dit" / checkpoint.EMAS
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def test_checkpoints_that_are_removed_leave_their_emas_at_regular_intervals(kept: Pipeline) -> None:
    dit = kept.folder / "dit"
    assert [path.name for path in checkpoint.emas(dit)] == NAMES
    assert [path.name for path in checkpoint.saved(dit)] == ["0000000144", "0000000160"]
    found = checkpoint.load(dit / checkpoint.EMAS / NAMES[2])
    assert found.groups.keys() == {"ema"} and found.state["ema_updates"] == 6


@pytest.mark.parametrize("stop_at", [56, 72])
def test_a_training_that_was_stopped_keeps_the_same_bytes(copied: Pipeline, kept: Pipeline, stop_at: int) -> None:
    shutil.rmtree(copied.folder / "dit")
    with pytest.raises(Stopped):
        copied.run("train-dit", Stopping(stop_at), **KEPT)
    newest = checkpoint.saved(copied.folder / "dit")[-1] / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])  # It resumes from the one before, and keeps some again.
    copied.run("train-dit", **KEPT)
    assert emas(copied) == emas(kept)


def test_without_the_setting_none_is_kept(trained: Pipeline) -> None:
    assert not (trained.folder / "dit" / checkpoint.EMAS).exists()


def test_the_combination_is_the_sum_that_was_fitted_and_training_s_own_decay_gives_its_end(kept: Pipeline) -> None:
    own = make(kept, decay=(0.9,)).directory  # The decay of these short trainings: within it, they warm up.
    assert own == kept.folder / "dit" / "post-hoc" / "decay-0.9"
    assert all(torch.allclose(weights(own)[name], each) for name, each in weights(kept.folder / "dit").items())
    made = make(kept, decay=(0.8,)).directory
    paths = [*checkpoint.emas(kept.folder / "dit"), *checkpoint.saved(kept.folder / "dit")]
    found = fit(0.9, range(2, 21, 2), ema_profile(0.8, 20))
    averages = [load_file(path / checkpoint.EMA) for path in paths]
    for name, tensor in weights(made).items():
        expected = sum(w * each[name].double() for w, each in zip(found.weights, averages, strict=True))
        torch.testing.assert_close(tensor.double(), expected, atol=1e-6, rtol=0)
    facts = manifest(made)["facts"]["post-hoc"]
    assert facts["length"] == "decay-0.8" and [*facts["emas"]] == [path.name for path in paths]
    assert sum(facts["weights"]) == pytest.approx(1) and facts["misfit"] == pytest.approx(found.misfit)


def test_it_is_drawn_from_again_verified_and_inspected_as_any_state_is(kept: Pipeline) -> None:
    outcome = make(kept, std=(0.15, 0.2))
    folder = outcome.directory / "std-0.2"
    assert [path.name for path in sorted(outcome.directory.glob("std-*"))] == ["std-0.15", "std-0.2"]
    drawn = kept.run("sample", num=1, denoiser=folder, label="averaged").directory
    assert pngs(drawn) != pngs(kept.run("sample", num=1, label="end").directory)
    assert manifest(drawn)["facts"]["sampling"]["checkpoint"] == "post-hoc std-0.2, after 160 images"
    image = next(iter(sorted(drawn.glob("[0-9]*.png"))))
    again = kept.run("sample", like=image, label="again", num=1).directory
    assert [*pngs(again).values()] == [pngs(drawn)[image.name]]
    for path in (folder, kept.folder, drawn):
        assert verify.run(Verify(path=path), Silent()).verdict == "is whole"
    assert "still the same" in inspect.run(Inspect(path=folder), Silent()).summary["of latents"]
    shown = inspect.run(Inspect(path=kept.folder / "dit"), Silent()).summary
    assert shown["EMAs kept"] == "8, after 16 to 128 images"


def test_the_same_again_is_complete_and_a_longer_training_makes_it_anew(kept: Pipeline, tmp_path: Path) -> None:
    pipeline = kept.copy(tmp_path / "with a space")
    outcome = make(pipeline, std=(0.2,))
    folder = outcome.directory
    assert shlex.split(outcome.next_commands[0])[-2:] == ["--denoiser", str(folder)]
    before = (folder / "manifest.json").read_bytes()
    assert make(pipeline, std=(0.2,)).already_complete
    assert (folder / "manifest.json").read_bytes() == before
    pipeline.run("train-dit", **{**KEPT, "train__images": 176})
    assert not make(pipeline, std=(0.2,)).already_complete
    assert manifest(folder)["facts"]["images_seen"] == 176
    (folder / "final" / "model.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match="damaged") as caught:
        pipeline.run("sample", num=1, denoiser=folder)
    training = shlex.quote(str(folder.parent.parent))
    assert caught.value.remedy == f"make it again: ldm average --denoiser {training} --std 0.2"
    assert not make(pipeline, std=(0.2,)).already_complete
    assert verify.run(Verify(path=folder), Silent()).verdict == "is whole"


def test_a_damaged_ema_is_named_and_without_it_the_others_do(kept: Pipeline, tmp_path: Path) -> None:
    pipeline = kept.copy(tmp_path)
    damaged = pipeline.folder / "dit" / checkpoint.EMAS / NAMES[3] / checkpoint.EMA
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(DataError, match=rf"{damaged} is damaged") as caught:
        make(pipeline, std=(0.18,))
    assert str(caught.value.remedy).startswith(f"remove {damaged.parent}: ")
    assert not (pipeline.folder / "dit" / "post-hoc" / "std-0.18").exists()
    with pytest.raises(DataError, match=rf"{damaged} is damaged"):
        verify.run(Verify(path=pipeline.folder), Silent())
    shutil.rmtree(damaged.parent)
    assert make(pipeline, std=(0.18,)).directory.is_dir()


def test_what_cannot_be_had_is_refused_with_what_can(kept: Pipeline, trained: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the 10 EMAs that .*dit kept cannot make std 0\.01") as caught:
        make(kept, std=(0.2, 0.01))
    assert "give `std` from" in str(caught.value.remedy) and "`train.keep_ema=yes`" in str(caught.value.remedy)
    assert not (kept.folder / "dit" / "post-hoc" / "std-0.01").exists()
    with pytest.raises(DataError, match=r"the 2 EMAs that .*dit kept cannot make std 0\.28"):
        make(trained, std=(0.28,))
    with pytest.raises(ConfigError, match="no length of the EMA is given"):
        make(kept)
    pipeline = trained.copy(tmp_path)
    shutil.rmtree(pipeline.folder / "dit" / checkpoint.FOLDER)
    with pytest.raises(DataError, match="dit has no checkpoint") as caught:
        make(pipeline, std=(0.1,))
    assert caught.value.remedy == "train another, with `train.keep_ema=yes`", "the same training would be complete"
    pipeline.run("train-dit", replace=True, train__ema=0.0)
    with pytest.raises(DataError, match=r"was trained without an EMA: `train\.ema=0\.0`"):
        make(pipeline, std=(0.1,))


def test_the_command_line_makes_several_and_says_what_to_draw_from(
    kept: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["average", "--runs-dir", str(kept.runs_dir), "--name", kept.name]
    assert ldm([*words, "--std", "0.14,0.16", "--decay", "0.85"]) == 0
    shown = capsys.readouterr()
    assert "misfit" in shown.out + shown.err and "--denoiser" in shown.out + shown.err
    for name in ("std-0.14", "std-0.16", "decay-0.85"):
        assert (kept.folder / "dit" / "post-hoc" / name / "manifest.json").is_file()
    assert ldm([*words, "--std", "0.5"]) == 2
