"""Every way to guide and to step, through whole runs of `sample`: what it changes, what it equals, what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from ldm.core.errors import ConfigError, DataError
from ldm.core.progress import Silent
from ldm.core.training.tasks import noisy_classifying
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from tests.support.pipeline_run import Pipeline, manifest, pngs


@pytest.fixture(scope="module")
def guided(trained: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run whose denoiser has learned something of the classes, with a classifier of noisy latents beside it."""
    pipeline = trained.copy(tmp_path_factory.mktemp("guided"))
    pipeline.run("train-dit", train__images=960, train__lr=3e-3, train__validate_every=960, replace=True)
    pipeline.run("train-classifier", noisy=True, train__images=512, train__lr=3e-3)
    return pipeline


@pytest.fixture(scope="module")
def weak(guided: Pipeline) -> Path:
    """A smaller denoiser of the same latents, in a run of its own."""
    other = Pipeline(guided.runs_dir, guided.images, name="weak")
    latents = guided.folder / "latents"
    return other.run("train-dit", latents=latents, model__width=16, train__images=32).directory


def drawn(pipeline: Pipeline, **settings: object) -> dict[str, bytes]:
    return pngs(pipeline.run("sample", **{"num": 2, "steps": 2, **settings}).directory)


def test_the_papers_form_is_the_same_thing_with_one_added(guided: Pipeline) -> None:
    assert drawn(guided, cfg_paper=1.5) == drawn(guided, cfg=2.5) != drawn(guided, cfg=1.5)
    with pytest.raises(ValidationError, match="`cfg=3` and `cfg_paper=2` are the same setting"):
        guided.config("sample", cfg=3, cfg_paper=2)


def test_guiding_three_channels_differs_from_guiding_all_four(guided: Pipeline) -> None:
    assert drawn(guided, cfg_channels=4) == drawn(guided) != drawn(guided, cfg_channels=3)
    with pytest.raises(ConfigError, match="`cfg_channels=5`: the latents have 4 channels"):
        guided.run("sample", cfg_channels=5)


def test_the_classifier_of_noisy_latents_knows_the_runs_noise_and_classes(guided: Pipeline) -> None:
    facts = manifest(guided.folder / "noisy-classifier")["facts"]
    assert facts["diffusion"] == {"schedule": "cosine", "num_steps": 1000, "zero_terminal_snr": False}
    assert facts["class_names"] == ["blue", "green", "red"]
    assert facts["accuracy"]["val_accuracy_least_noise"] > 0.6
    assert guided.run("train-classifier", noisy=True, train__images=512, train__lr=3e-3).already_complete


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_classifier_guidance_alone_draws_towards_the_class(guided: Pipeline, sampler: str) -> None:
    def blueness(scale: float) -> float:
        settings = {"classes": "blue", "num": 8, "steps": 20, "cfg": 0, "sampler": sampler, "classifier_scale": scale}
        folder = guided.run("sample", **settings).directory
        images = np.stack([np.array(Image.open(path), dtype=float) for path in sorted(folder.glob("[0-9]*.png"))])
        return float(images[..., 2].mean() - images[..., 1].mean())

    assert blueness(20) > blueness(0) + 4


def test_classifier_guidance_adds_to_classifier_free_guidance(guided: Pipeline) -> None:
    both = drawn(guided, cfg=3, classifier_scale=2)
    assert both != drawn(guided, cfg=3) and both != drawn(guided, cfg=1, classifier_scale=2)


def test_a_run_with_guides_is_verified_whole(guided: Pipeline, weak: Path) -> None:
    guided.run("sample", num=1, steps=2, autoguide=weak, classifier_scale=1, label="by all")
    outcome = verify.run(Verify(path=guided.folder), Silent())
    assert outcome.verdict == "is whole" and "noisy-classifier" in outcome.summary["verified"]


def test_a_classifier_that_is_missing_idle_or_of_other_noise_is_refused(
    guided: Pipeline, trained: Pipeline, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"noisy-classifier does not exist.*ldm train-classifier.*--noisy"):
        trained.run("sample", classifier_scale=1)
    with pytest.raises(ConfigError, match=r"does nothing at scale 0.*classifier_scale=1"):
        guided.run("sample", classifier=guided.folder / "noisy-classifier")
    other = Pipeline(tmp_path, guided.images)
    settings = {"latents": guided.folder / "latents", "noisy_model__schedule": "linear"}
    folder = other.run("train-classifier", noisy=True, train__images=32, **settings).directory
    with pytest.raises(ConfigError, match="was trained on another noise schedule"):
        guided.run("sample", classifier=folder, classifier_scale=1)


def test_autoguidance_at_scale_one_is_none_and_elsewhere_leads_away_from_the_weak(guided: Pipeline, weak: Path) -> None:
    assert drawn(guided, autoguide=weak, autoguide_scale=1) == drawn(guided)
    assert drawn(guided, autoguide=weak) != drawn(guided)
    itself = guided.folder / "dit"
    assert drawn(guided, autoguide=itself, autoguide_scale=3) == drawn(guided)


def test_a_weak_model_of_other_latents_is_refused(guided: Pipeline, tmp_path: Path) -> None:
    other = Pipeline(tmp_path, guided.images)
    other.run("train-vqvae", seed=5)
    other.through("encode", "train-dit")
    with pytest.raises(ConfigError, match="was trained on latents of another autoencoder"):
        guided.run("sample", autoguide=other.folder / "dit")


def test_rectified_flow_trains_and_every_sampler_draws_from_it(trained: Pipeline, tmp_path: Path) -> None:
    flow = Pipeline(tmp_path, trained.images)
    settings = {"diffusion__times": "logit-normal", "diffusion__shift": 2.0, "train__images": 320, "train__lr": 3e-3}
    flow.run("train-dit", latents=trained.folder / "latents", diffusion__schedule="rectified-flow", **settings)
    assert manifest(flow.folder / "dit")["facts"]["diffusion"]["prediction"] == "flow"
    for sampler in ("ddim", "ddpm", "heun", "dpmpp-2m"):
        assert drawn(flow, sampler=sampler, classes="0")
    euler = drawn(flow, sampler="euler", spacing="uniform", steps=4)
    assert euler != drawn(flow, sampler="euler", spacing="uniform", steps=4, shift=1.0)
    assert euler == drawn(flow, sampler="euler", spacing="uniform", steps=4, shift=2.0)


def test_a_learned_variance_serves_ddpm_and_leaves_ddim_alone(trained: Pipeline, tmp_path: Path) -> None:
    learned = Pipeline(tmp_path, trained.images)
    latents = trained.folder / "latents"
    learned.run("train-dit", latents=latents, diffusion__learn_variance=True, train__images=256, train__lr=1e-3)
    ddpm = {"sampler": "ddpm", "steps": 5}
    own = drawn(learned, **ddpm)
    assert own == drawn(learned, **ddpm, variance="learned")
    assert own != drawn(learned, **ddpm, variance="posterior") != drawn(learned, **ddpm, variance="beta")
    assert drawn(learned)
    with pytest.raises(ConfigError, match=r"variance=learned.*learn_variance=yes"):
        trained.run("sample", **ddpm, variance="learned")


@pytest.mark.parametrize("learn", [False, True])
def test_bits_per_dimension_are_reported_with_their_error_and_conditions(
    trained: Pipeline, tmp_path: Path, learn: bool
) -> None:
    run = Pipeline(tmp_path, trained.images)
    run.run("train-dit", latents=trained.folder / "latents", diffusion__learn_variance=learn)
    outcome = run.run("eval", bits_per_dim=True, limit=8, times=4)
    names = {f"bits_per_dim[{name} variance]" for name in (["learned"] if learn else ["posterior", "beta"])}
    assert set(outcome.summary) == names and all(" ± " in value for value in outcome.summary.values())
    assert run.run("eval", bits_per_dim=True, limit=8, times=4).already_complete
    of_one = run.run("eval", bits_per_dim=True, limit=1, times=4, replace=True)
    assert set(of_one.summary) == names and not any("±" in value for value in of_one.summary.values())


def test_one_held_out_latent_is_enough_for_the_classifier_of_noisy_ones(
    trained: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noisy_classifying, "VALIDATION_SAMPLES", 1)
    run = Pipeline(tmp_path, trained.images)
    run.run("train-classifier", noisy=True, latents=trained.folder / "latents", train__images=64)
    assert manifest(run.folder / "noisy-classifier")["facts"]["accuracy"]["val_accuracy_least_noise"] in (0, 1)


def test_guiding_away_from_a_class_needs_no_null_and_differs_from_guiding_away_from_none(guided: Pipeline) -> None:
    plain, away = drawn(guided, classes="red", cfg=3), drawn(guided, classes="red", cfg=3, away_from="blue")
    assert plain != away
    with pytest.raises(ConfigError, match=r"`away_from=blue` has no effect at `cfg=1`"):
        drawn(guided, cfg=1, away_from="blue")
    with pytest.raises(ConfigError, match=r"`away_from=all` is 3 conditions"):
        drawn(guided, away_from="all")
    other = Pipeline(guided.runs_dir, guided.images, name="no-null")
    other.run("train-dit", latents=guided.folder / "latents", train__images=32, label_dropout=0)
    made = other.run("sample", classes="red", away_from="blue", num=1, steps=2).directory
    assert manifest(made)["facts"]["sampling"]["away_from"] == "blue" and len(pngs(made)) == 1
    assert "away_from" not in manifest(other.run("sample", num=1, steps=2).directory)["facts"]["sampling"]


@pytest.mark.parametrize("how", [{}, {"away_from": "blue", "cfg": 2.0}])
def test_guides_that_know_no_null_are_refused_without_a_class(guided: Pipeline, how: dict[str, object]) -> None:
    for command, settings in (("edit", {}), ("interpolate", {"classes": [], "to_seed": 1, "frames": 2})):
        with pytest.raises(ConfigError, match=r"`classifier_scale` guides towards a class, and none is given"):
            guided.run(command, classifier_scale=1, **settings, **how)
        other = Pipeline(guided.runs_dir, guided.images, name="no-null-to-guide-from")
        latents = guided.folder / "latents"
        blind = other.run("train-dit", latents=latents, train__images=32, label_dropout=0).directory
        with pytest.raises(ConfigError, match=r"`autoguide=.*label dropout 0.*add `classes`"):
            guided.run(command, autoguide=blind, **settings, **how)
    inverted = {"inversion": True, "classes": "red", "steps": 2, "label": "inverted", "replace": True}
    assert pngs(guided.run("edit", classifier_scale=1, **inverted).directory), "the null is only the image's own"


def test_a_cache_is_refused_where_no_block_lies_between_the_first_and_the_last(trained: Pipeline) -> None:
    with pytest.raises(ConfigError, match="`cache=2`: the network, dit, has 2 blocks"):
        trained.run("sample", cache=2)
    with pytest.raises(ConfigError, match="two conditions are drawn at every step"):
        trained.run("anagram", classes=["red", "blue"], cache=2)
