"""Consistency models through the stages: tuned from a denoiser, trained from scratch, and drawn from in few steps."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from ldm.core.errors import ConfigError
from ldm.core.pipeline.settings import Diffusion
from ldm.core.progress import Silent
from ldm.stages import sample
from ldm.stages.configs import Sample
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from tests.support.pipeline_run import MACHINE, Pipeline, manifest, png_files, pngs, write_squares

TUNED = {"name": "fast", "diffusion": {"objective": "consistency"}}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    base = tmp_path_factory.mktemp("consistency")
    pipeline = Pipeline(base, write_squares(base / "squares", size=16)).through("train-vqvae", "encode", "train-dit")
    pipeline.run("train-denoiser", start_from=pipeline.folder, latents=pipeline.folder / "latents", **TUNED)
    return Pipeline(base, pipeline.images, "fast")


def test_it_is_tuned_from_a_denoiser_and_draws_in_two_steps_or_as_many_as_asked_for(tuned: Pipeline) -> None:
    source = manifest(tuned.folder / "denoiser")
    assert source["inputs"]["start_from"]["path"] == "../../tiny/dit"
    for steps, label in ((None, "usual"), (1, "one"), (3, "three")):
        tuned.run("sample", steps=steps, label=label, num=2)
    sampling = manifest(tuned.folder / "samples" / "usual")["facts"]["sampling"]
    assert (sampling["sampler"], sampling["steps"]) == ("consistency", 2)
    drawn = [pngs(tuned.folder / "samples" / label) for label in ("usual", "one", "three")]
    assert all(len(each) == 6 for each in drawn) and drawn[0] != drawn[1] != drawn[2]
    verify.run(Verify(path=tuned.folder), Silent())


def test_an_interrupted_drawing_of_it_is_the_same(tuned: Pipeline) -> None:
    tuned.run("sample", steps=2, label="whole", num=4)
    tuned.run("sample", steps=2, label="alone", num=2, batch_size=1)
    whole, alone = (pngs(tuned.folder / "samples" / label) for label in ("whole", "alone"))
    assert whole["000000.png"] == alone["000000.png"]


def test_its_images_are_drawn_again_to_the_byte(tuned: Pipeline) -> None:
    made = tuned.run("sample", steps=3, cfg=2, classes="red", num=1, label="one of it").directory
    place = {"name": tuned.name, "runs_dir": tuned.runs_dir, "machine": MACHINE, "label": "again"}
    again = sample.run(Sample.model_validate({**place, "like": made / "000000.png"}), Silent())
    assert png_files(again.directory) == png_files(made)


@pytest.mark.parametrize(
    ("command", "asked", "message"),
    [
        ("sample", {"sampler": "heun"}, "not a setting of a consistency model"),
        ("distill", {}, "is a consistency model"),
        ("eval", {"bits_per_dim": True}, "is a consistency model"),
        ("edit", {"inversion": True}, "is a consistency model"),
    ],
)
def test_what_a_consistency_model_cannot_do_is_refused(
    command: str, asked: dict[str, object], message: str, tuned: Pipeline
) -> None:
    with pytest.raises(ConfigError, match=message):
        tuned.run(command, **asked)


def test_tuning_from_another_process_is_refused(tuned: Pipeline, tmp_path: Path) -> None:
    first = Pipeline(tuned.runs_dir, tuned.images)
    other = {"name": "other", "diffusion": {"objective": "consistency", "schedule": "rectified-flow"}}
    with pytest.raises(ConfigError, match=r"`diffusion.schedule=rectified-flow`.*was trained with cosine"):
        first.run("train-denoiser", start_from=first.folder, latents=first.folder / "latents", **other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prediction": "x0"}, "takes v or flow"),
        ({"learn_variance": True}, "takes False alone"),
        ({"weighting": "snr"}, "takes uniform alone"),
        ({"pure_noise": True}, "pure_noise is for objective 'fixed-noise'"),
    ],
)
def test_settings_of_other_objectives_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Diffusion.model_validate({"objective": "consistency", **settings})
