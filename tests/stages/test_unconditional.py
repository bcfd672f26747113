"""A model of unlabelled images, or of labelled ones whose labels it never sees, goes through every stage."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ldm.cli import sweep
from ldm.core.conditioning.conditioning import NoConditioning
from ldm.core.conditioning.registry import conditioning_of
from ldm.core.denoisers import registry
from ldm.core.errors import ConfigError
from ldm.core.files import sha256_json
from ldm.core.progress import Silent
from ldm.core.runs.run import MANIFEST, OWN_DIGEST
from ldm.stages.configs.folders import Inspect, Verify
from ldm.stages.configs.report import Report
from ldm.stages.configs.sweep import Sweep
from ldm.stages.tools import inspect, report, verify
from tests.support.pipeline_run import MACHINE, Heard, Pipeline, manifest, pngs


@pytest.fixture(scope="module")
def unconditional(trained: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run whose denoiser sees no labels, measured as it trains; its samples, evaluated."""
    pipeline = trained.copy(tmp_path_factory.mktemp("unconditional"))
    measured = {"metrics__every": 32, "metrics__num": 24, "metrics__steps": 2, "preview__every": 32}
    pipeline.run("train-dit", conditioning="none", replace=True, **measured)
    pipeline.run("sample", num=12, label="some")
    pipeline.run("sample", num=2, label="best", checkpoint="best")
    pipeline.run("eval", samples="some")
    return pipeline


def test_training_without_labels_records_it_and_draws_without_guidance(unconditional: Pipeline) -> None:
    made = manifest(unconditional.folder / "dit")["facts"]
    assert made["conditioning"] == {"kind": "none"} and "class_names" not in made and made["label_dropout"] == 0
    network = registry.load(unconditional.folder / "dit" / "final")
    assert network.config.num_classes == 0 and not any("label" in name for name in network.state_dict())
    drawn = manifest(unconditional.folder / "samples" / "some")["facts"]
    assert conditioning_of(drawn) == NoConditioning() and drawn["sampling"]["cfg"] == 1
    assert [sorted(image) for image in drawn["images"]] == [["file", "seed"]] * 12
    assert "_cfg-1_ddim3_" in unconditional.run("sample", num=1).directory.name


def test_its_training_and_its_samples_do_not_depend_on_the_labels(unconditional: Pipeline) -> None:
    """The batches of an unconditional training have no labels, though the shards do."""
    from ldm.core.pipeline.training_data import training_data
    from ldm.core.system.precision import resolve

    config, policy = unconditional.config("train-dit", conditioning="none"), resolve("cpu", "fp32")
    sets = training_data(None, config, policy, kind="none").read(policy, Silent())
    rows = np.arange(4)
    assert sets.train.cond(rows, rows) == {} and sets.conditioning == NoConditioning()
    x = torch.randn(2, *sets.train.shape, generator=torch.Generator().manual_seed(0))
    network, t = registry.load(unconditional.folder / "dit" / "final"), torch.tensor([0.2, 0.8])
    assert torch.equal(network(x, t, {}), network(x, t, {"labels": torch.tensor([0, 1])}))


def test_numbers_of_its_samples_have_no_class_accuracy(unconditional: Pipeline) -> None:
    evaluated = json.loads((unconditional.folder / "eval" / "some" / "metrics.json").read_text())
    assert "frechet_distance[classifier]" in evaluated["numbers"]
    assert not any(name.startswith("class_accuracy") for name in evaluated["numbers"])
    logged = [json.loads(line) for line in (unconditional.folder / "dit" / "metrics.jsonl").read_text().splitlines()]
    measured = [line for line in logged if "conditions" in line]
    assert measured and not any(name.startswith("class_accuracy") for line in measured for name in line)
    with pytest.raises(ConfigError, match="class_accuracy"):
        unconditional.copy(unconditional.folder / "other").run(
            "train-dit", conditioning="none", replace=True, metrics__every=32, metrics__best="class_accuracy"
        )


def test_its_bits_per_dim_are_of_no_labels(unconditional: Pipeline) -> None:
    folder = unconditional.run("eval", bits_per_dim=True, limit=4, times=2).directory
    assert "unconditional" in json.loads((folder / "metrics.json").read_text())["conditions"]["of"]


def test_the_whole_run_is_verified_inspected_swept_and_reported(unconditional: Pipeline) -> None:
    assert verify.run(Verify(path=unconditional.folder), Silent()).verdict == "is whole"
    assert inspect.run(Inspect(path=unconditional.folder / "samples" / "some"), Silent()).summary
    where = {"name": unconditional.name, "runs_dir": unconditional.runs_dir}
    swept = sweep.run(Sweep(**where, cfg=(1.0,), steps=(2, 3), num=12, machine=MACHINE), Silent())
    assert (swept.directory / "grid.png").is_file()
    report.run(Report(**where), Silent())
    page = (unconditional.folder / "report.html").read_text()
    assert "samples/some" in page or "grid" in page
    assert "--cfg 1,1.5" not in page  # it proposes no guidance


def test_what_only_conditional_models_can_draw_is_refused_in_the_words_of_label_dropout_0(
    unconditional: Pipeline,
) -> None:
    with pytest.raises(ConfigError, match="`classes=red`: this model is conditioned on nothing"):
        unconditional.run("sample", classes="red")
    with pytest.raises(ConfigError, match="`cfg=3` needs a null class, but this denoiser was trained with label"):
        unconditional.run("sample", cfg=3.0)
    with pytest.raises(ConfigError, match=r"`classifier=.*trained on other conditions"):
        unconditional.run("train-classifier", noisy=True)
        unconditional.run("sample", classifier_scale=1.0)


def test_dropping_labels_of_an_unconditional_model_is_refused_when_the_settings_are_read(trained: Pipeline) -> None:
    assert trained.config("train-dit", conditioning="none").label_dropout == 0
    with pytest.raises(ValidationError, match="there is nothing to drop"):
        trained.config("train-dit", conditioning="none", label_dropout=0.2)


def test_latents_that_record_no_conditioning_train_an_unconditional_model(copied: Pipeline) -> None:
    """What the manifest of the data records counts, not a list of fixed fields."""
    path = copied.folder / "latents" / MANIFEST
    document = json.loads(path.read_text())
    del document["facts"]["class_names"], document["facts"]["class_counts"], document[OWN_DIGEST]
    document["facts"]["conditioning"] = {"kind": "none"}
    path.write_text(json.dumps({**document, OWN_DIGEST: sha256_json(document)}))
    verify.run(Verify(path=copied.folder / "latents"), Silent())
    shutil.rmtree(copied.folder / "dit")
    copied.run("train-dit", preview__every=0)
    made = manifest(copied.folder / "dit")["facts"]
    assert made["conditioning"] == {"kind": "none"} and made["label_dropout"] == 0
    heard = Heard()
    folder = copied.run("sample", heard, num=2).directory
    assert len(pngs(folder)) == 2 and not heard.warnings


def test_pixels_are_trained_on_without_labels(images: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, images)
    pipeline.run("train-autoencoder", model={"preset": "identity"})
    pipeline.run("train-denoiser", conditioning="none", preview__every=0, train__images=16)
    assert manifest(pipeline.folder / "denoiser")["facts"]["conditioning"] == {"kind": "none"}
    assert len(pngs(pipeline.run("sample", num=2).directory)) == 2
