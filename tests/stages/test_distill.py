"""Distillation through the stages: a chain of students, each its own directory, and what each can do."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ldm.cli.main import run
from ldm.core import files
from ldm.core.denoisers import registry as denoisers
from ldm.core.diffusion.distillation import CFG
from ldm.core.errors import ConfigError, Stopped
from ldm.core.progress import Silent
from ldm.core.training import step
from ldm.stages import sample
from ldm.stages.configs import Sample
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from tests.support.pipeline_run import MACHINE, Pipeline, manifest, png_files, pngs, write_squares
from tests.support.small_runs import contents


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    base = tmp_path_factory.mktemp("distill")
    pipeline = Pipeline(base, write_squares(base / "squares", size=16))
    pipeline.through("train-vqvae", "encode", "train-dit", "distill")
    return pipeline


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "final" / "model.safetensors")


def test_each_student_is_taught_by_the_one_before_it_and_everything_verifies(distilled: Pipeline) -> None:
    students = distilled.folder / "students"
    first, last = manifest(students / "2"), manifest(students / "1")
    assert first["inputs"]["denoiser"]["path"] == "../../dit" and last["inputs"]["denoiser"]["path"] == "../2"
    assert first["facts"]["student"] == {"steps": 2, "guidance": [1.0, 4.0]}
    assert weights(students / "1").keys() == weights(students / "2").keys() > weights(distilled.folder / "dit").keys()
    assert distilled.run("distill").already_complete
    verify.run(Verify(path=distilled.folder), Silent())


def test_a_student_draws_in_its_own_steps_at_a_scale_of_its_range(distilled: Pipeline) -> None:
    one = distilled.folder / "students" / "1"
    for label, scale in (("weak", 1.0), ("strong", 4.0)):
        distilled.run("sample", denoiser=one, label=label, steps=None, cfg=scale, num=2)
    drawn = manifest(distilled.folder / "samples" / "strong")["facts"]["sampling"]
    assert drawn["steps"] == 1 and drawn["cfg"] == 4.0 and drawn["spacing"] == "uniform"
    assert len(pngs(distilled.folder / "samples" / "weak")) == 6


def test_its_images_are_drawn_again_to_the_byte_wherever_it_lies(distilled: Pipeline, tmp_path: Path) -> None:
    two = distilled.folder / "students" / "2"
    made = distilled.run("sample", denoiser=two, steps=None, cfg=2, classes="red", num=1, label="one of it").directory
    drawn = png_files(made)
    for name, given in ((distilled.name, {}), ("other", {}), ("another", {"denoiser": two})):
        place = {"name": name, "runs_dir": distilled.runs_dir, "machine": MACHINE, "label": "again"}
        again = sample.run(Sample.model_validate({**place, "like": made / "000000.png", **given}), Silent())
        assert png_files(again.directory) == drawn


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"steps": 7}, "distilled to 1"),
        ({"cfg": 5.0}, "guidance scales from 1 to 4"),
        ({"sampler": "heun"}, "not a setting of a distilled denoiser"),
    ],
)
def test_what_a_student_was_not_made_for_is_refused_by_name(
    asked: dict[str, object], message: str, distilled: Pipeline
) -> None:
    with pytest.raises(ConfigError, match=message):
        distilled.run("sample", **{"denoiser": distilled.folder / "students" / "1", "steps": None, **asked})


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("anagram", {"classes": ["red", "red"], "view": "none", "num": 1}),
        ("hybrid", {"near": "red", "far": "red", "num": 1}),
        ("interpolate", {"classes": ["red", "blue"], "frames": 2}),
    ],
)
def test_a_student_that_takes_its_scale_draws_images_of_two_conditions(
    command: str, asked: dict[str, object], distilled: Pipeline
) -> None:
    how: dict[str, Any] = {"denoiser": distilled.folder / "students" / "2", "steps": None, "cfg": 2}
    made = distilled.run(command, label="of two", **how, **asked).directory
    alike = distilled.run("sample", classes="red", num=1, label="of one", **how).directory
    assert pngs(made)["000000.png"] == pngs(alike)["000000.png"]


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("edit", {"inversion": True, "classes": "red", "steps": None, "denoiser": "students/2"}),
        ("eval", {"bits_per_dim": True, "denoiser": "students/2"}),
        ("sample", {"cfg": 1.0, "autoguide": "students/2"}),
    ],
)
def test_a_student_is_refused_where_other_times_than_its_own_are_needed(
    command: str, asked: dict[str, object], distilled: Pipeline
) -> None:
    places = {name: distilled.folder / str(asked[name]) for name in ("denoiser", "autoguide") if name in asked}
    (setting,) = places
    with pytest.raises(ConfigError, match=f"`{setting}=.*` was distilled, and has learned the times of its own"):
        distilled.run(command, **{**asked, **places})


def test_the_denoiser_of_the_run_is_still_the_usual_one(distilled: Pipeline) -> None:
    distilled.run("sample", label="usual", num=1)
    assert manifest(distilled.folder / "samples" / "usual")["inputs"]["denoiser"]["path"] == "../../dit"


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("dit", {"patch_size": 2, "width": 16, "depth": 1, "heads": 2}),
        ("unet", {"channels": 32, "blocks": "res", "multipliers": (1, 1), "repeats": 1, "middle": "res"}),
    ],
)
def test_a_network_with_an_untrained_scalar_computes_what_it_did_without(family: str, shape: dict[str, object]) -> None:
    torch.manual_seed(0)
    config = denoisers.FAMILIES[family].config(latent_channels=2, latent_size=4, num_classes=3, **shape)
    plain, scaled = denoisers.build(config), denoisers.build(config.replace(scalars=(CFG,)))
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    scaled.load_state_dict({**scaled.state_dict(), **plain.state_dict()})
    x, t, cond = torch.randn(3, 2, 4, 4), torch.rand(3), {"labels": torch.tensor([0, 1, 3])}
    with_scale = {**cond, CFG: torch.tensor([1.0, 2.0, 3.0])}
    torch.testing.assert_close(scaled(x, t, with_scale), plain(x, t, cond))
    torch.testing.assert_close(scaled(x, t, scaled.prepare(with_scale)), plain(x, t, cond))


def test_a_model_without_null_is_distilled_without_guidance(distilled: Pipeline, tmp_path: Path) -> None:
    other = distilled.copy(tmp_path)
    other.run("train-dit", label_dropout=0.0, replace=True)
    with pytest.raises(ConfigError, match="needs a null class"):
        other.run("distill", guidance=(1.0, 3.0), replace=True)
    other.run("distill", replace=True)
    assert manifest(other.folder / "students" / "1")["facts"]["student"]["guidance"] == [1.0, 1.0]
    other.run("sample", denoiser=other.folder / "students" / "1", steps=None, num=1, label="plain")


@pytest.mark.parametrize(("steps", "first"), [(3, 8), (4, 2), (2, 12)])
def test_steps_that_do_not_halve_are_refused(steps: int, first: int, distilled: Pipeline) -> None:
    with pytest.raises(ValueError, match="does not halve"):
        distilled.config("distill", steps=steps, first_steps=first)


def test_a_network_of_the_noise_is_refused(distilled: Pipeline, tmp_path: Path) -> None:
    other = distilled.copy(tmp_path)
    other.run("train-dit", replace=True, diffusion={"prediction": "eps", "weighting": "snr", "schedule": "linear"})
    with pytest.raises(ConfigError, match="predicts the noise"):
        other.run("distill", replace=True)


def test_a_network_that_learned_the_variance_is_refused_in_one_line(distilled: Pipeline, tmp_path: Path) -> None:
    other = distilled.copy(tmp_path)
    other.run("train-dit", replace=True, diffusion__learn_variance=True)
    with pytest.raises(ConfigError, match="has learned the variance"):
        other.run("distill", replace=True)


@pytest.mark.parametrize(
    ("asked", "message"), [({"cfg": 5.0}, "`cfg=5`.*guidance scales from 1 to 4"), ({"steps": 9}, "`steps=9`")]
)
def test_evaluation_in_training_is_refused_where_the_student_cannot_draw_so(
    asked: dict[str, object], message: str, distilled: Pipeline, tmp_path: Path
) -> None:
    other = distilled.copy(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        other.run("distill", replace=True, metrics={"every": 32, "num": 12, **asked})
    assert caught.value.section == "metrics"


def test_an_interrupted_chain_goes_on_to_the_same_weights(
    distilled: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, usual, taken = distilled.copy(tmp_path), step.Stepper.step, []

    def stop_in_the_second_student(self: step.Stepper, *of: object) -> object:
        taken.append(1)
        if len(taken) == 6:
            raise Stopped("stopped by the test")
        return usual(self, *of)  # type: ignore[arg-type]

    for student in (other.folder / "students").iterdir():
        shutil.rmtree(student)
    monkeypatch.setattr(step.Stepper, "step", stop_in_the_second_student)
    with pytest.raises(Stopped):
        other.run("distill")
    assert (other.folder / "students" / "2" / "manifest.json").exists()
    other.run("distill")
    again, before = (contents(each.folder / "students") for each in (other, distilled))
    assert again == before, "recipes and identities too: a student names no folder of its run"


def test_the_recipe_of_a_student_mends_it_in_a_run_that_was_moved(distilled: Pipeline, tmp_path: Path) -> None:
    moved = distilled.copy(tmp_path / "elsewhere")
    student = moved.folder / "students" / "1"
    trained = student / "final" / "model.safetensors"
    before = trained.read_bytes()
    trained.write_bytes(b"")
    words = ["distill", "-c", str(student / "config.yaml"), "--runs-dir", str(moved.runs_dir)]
    assert run([*words, "--name", moved.folder.name, "--quiet"]) == 0
    assert trained.read_bytes() == before


def test_a_student_of_an_earlier_version_which_names_its_teacher_is_complete(
    distilled: Pipeline, tmp_path: Path
) -> None:
    older = distilled.copy(tmp_path)
    for steps, teacher in ((2, None), (1, str(older.folder / "students" / "2"))):
        student = older.folder / "students" / str(steps)
        document = manifest(student)
        del document["manifest_sha256"]
        document["config"] |= {"first_steps": steps, "denoiser": teacher}
        files.write_json(student / "manifest.json", files.sealed(document, "manifest_sha256"))
        identity = files.read_json(student / "identity.json")
        del identity["places"]
        files.write_json(student / "identity.json", {**identity, "config": document["config"]})
    before = contents(older.folder / "students")
    assert older.run("distill").already_complete
    assert contents(older.folder / "students") == before
