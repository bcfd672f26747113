"""A default that changes is none of a run's: the command that began it goes on with it as it was."""

import json
import shutil
from typing import Any

import pytest

from ldm.core.errors import ConfigError
from ldm.core.progress import Silent
from ldm.core.runs.run import IDENTITY, MANIFEST
from ldm.core.settings.fields import as_formerly
from ldm.core.training.settings import DenoiserTrain
from ldm.stages.configs import TrainDenoiser
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from tests.support.pipeline_run import Pipeline, manifest

FORMER = dict(DenoiserTrain.former)


def of(settings: dict[str, Any]) -> dict[str, Any]:
    return {f"train__{name}": value for name, value in settings.items()}


def recorded(pipeline: Pipeline) -> dict[str, Any]:
    return {name: manifest(pipeline.folder / "dit")["config"]["train"][name] for name in FORMER}


def weights(pipeline: Pipeline) -> bytes:
    return (pipeline.folder / "dit" / "final" / "model.safetensors").read_bytes()


def test_what_nobody_gave_is_as_it_was_in_every_section_and_what_was_given_stays() -> None:
    assert FORMER and all(getattr(DenoiserTrain(), name) != value for name, value in FORMER.items())
    before = as_formerly(TrainDenoiser())
    assert {name: getattr(before.train, name) for name in FORMER} == FORMER
    given = TrainDenoiser.model_validate({"train": {name: getattr(DenoiserTrain(), name) for name in FORMER}})
    assert as_formerly(given) is given


def test_a_training_begun_by_former_defaults_goes_on_and_is_complete(copied: Pipeline) -> None:
    shutil.rmtree(copied.folder / "dit")
    copied.run("train-dit", **of(FORMER))
    folder, whole = copied.folder / "dit", weights(copied)
    assert copied.run("train-dit").already_complete
    assert copied.run("train-dit", replace=True).already_complete
    assert verify.run(Verify(path=copied.folder), Silent()).verdict == "is whole"

    # Interrupted: nobody gave the setting then, and nobody does now.
    (folder / MANIFEST).unlink()
    shutil.rmtree(folder / "final")
    shutil.rmtree(folder / "checkpoints" / "0000000064")
    assert not copied.run("train-dit").already_complete
    assert weights(copied) == whole and recorded(copied) == FORMER

    # So is a longer one, and one begun before the setting was recorded at all.
    copied.run("train-dit", train__images=96)
    assert recorded(copied) == FORMER
    (folder / MANIFEST).unlink()
    document = json.loads((folder / IDENTITY).read_text())
    for name in FORMER:
        del document["config"]["train"][name]
    (folder / IDENTITY).write_text(json.dumps(document))
    copied.run("train-dit", train__images=96)
    assert recorded(copied) == FORMER


def test_other_settings_begin_another_training_by_the_new_defaults(copied: Pipeline) -> None:
    shutil.rmtree(copied.folder / "dit")
    copied.run("train-dit", **of(FORMER))
    with pytest.raises(ConfigError, match=r"train\.optimizer: 'adamw' → 'muon'"):
        copied.run("train-dit", train__beta1=0.8)
    with pytest.raises(ConfigError, match=r"train\.optimizer: 'adamw' → 'muon'"):
        copied.run("train-dit", train__optimizer="muon")
    copied.run("train-dit", replace=True, train__beta1=0.8)
    assert all(value != FORMER[name] for name, value in recorded(copied).items())


def test_adamw_has_the_rates_of_before_and_so_has_what_goes_on_from_other_weights() -> None:
    assert DenoiserTrain(optimizer="adamw") == DenoiserTrain(**FORMER)
    assert DenoiserTrain(optimizer="adamw", lr=2e-3).lr == 2e-3
    assert TrainDenoiser.model_validate({"start_from": "runs/other"}).train == DenoiserTrain(optimizer="adamw")
    assert TrainDenoiser.model_validate({"start_from": "a", "train": {"optimizer": "muon"}}).train.optimizer == "muon"


def test_the_rate_of_muon_follows_that_of_the_others_unless_it_is_given() -> None:
    assert DenoiserTrain().rate_of_muon == pytest.approx(0.03)
    assert DenoiserTrain(lr=1e-4).rate_of_muon == pytest.approx(0.003)
    assert DenoiserTrain(lr=1e-4, muon_lr=0.02).rate_of_muon == 0.02
    assert DenoiserTrain(optimizer="adamw").rate_of_muon == 0


@pytest.mark.parametrize("given", [{"lr": 2e-4}, {"optimizer": "muon"}, {"optimizer": "muon", "lr": 2e-3}])
def test_what_was_given_then_goes_on_with_what_was_not(copied: Pipeline, given: dict[str, Any]) -> None:
    shutil.rmtree(copied.folder / "dit")
    copied.run("train-dit", **of({**FORMER, **given}))
    assert copied.run("train-dit", **of(given)).already_complete


def test_a_sharded_training_has_the_optimizer_that_can_be_sharded() -> None:
    assert DenoiserTrain(shard=True).optimizer == "adamw"
    assert DenoiserTrain.model_validate({"shard": "yes"}).optimizer == "adamw"
    assert DenoiserTrain.model_validate({"shard": "no"}).optimizer == "muon"
    with pytest.raises(ValueError, match="leave out --shard, or muon"):
        DenoiserTrain(shard=True, optimizer="muon")
