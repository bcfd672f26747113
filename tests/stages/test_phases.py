"""The training of an autoencoder in phases: what each trains, what it leaves behind, and how it goes on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ldm.cli.main import run
from ldm.core.errors import ConfigError, Stopped
from ldm.core.training.tasks.autoencoding import AutoencodingTask
from ldm.core.training.tasks.phases import in_phases
from ldm.stages.configs import TrainAutoencoder
from tests.support.pipeline_run import Heard, Pipeline, manifest, write_squares

MODEL = {"preset": "kl-f4-s", "channels": 8}
PHASES = (
    "train.images=64 data.image_size=16",
    "part=middle train.images=48 data.image_size=24",
    "part=head train.images=32 data.image_size=16 loss.adversarial_weight=0.5 loss.adversarial_start=0",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("images") / "squares")


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    made = Pipeline(tmp_path_factory.mktemp("runs"), images)
    made.run("train-autoencoder", model=MODEL, phases=PHASES)
    return made


def final(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "final" / "model.safetensors")


def folders(run: Pipeline) -> list[Path]:
    return [run.folder / "phases" / "1", run.folder / "phases" / "2", run.folder / "autoencoder"]


def changed(before: Path, after: Path) -> set[str]:
    """Return the first two names of the modules whose weights differ."""
    old, new = final(before), final(after)
    return {".".join(name.split(".")[:2]) for name in old if not torch.equal(old[name], new[name])}


def test_phases_are_the_trainings_that_they_name_one_from_the_other(
    trained: Pipeline, images: Path, tmp_path: Path
) -> None:
    """By `start_from` and `part` in runs of their own, the weights are the same to the bit."""
    begun: dict[str, Any] = {}
    for number, (text, folder) in enumerate(zip(PHASES, folders(trained), strict=True)):
        settings = dict(word.split("=") for word in text.split())
        alone = Pipeline(tmp_path / str(number), images)
        own: dict[str, Any] = {key.replace(".", "__"): value for key, value in settings.items()}
        alone.run("train-autoencoder", model=MODEL, **own, **begun)
        expected, found = final(alone.folder / "autoencoder"), final(folder)
        assert all(torch.equal(expected[name], tensor) for name, tensor in found.items())
        begun = {"start_from": alone.folder}


def test_each_phase_changes_its_own_layers_alone(trained: Pipeline) -> None:
    first, second, third = folders(trained)
    middle = {"encoder.middle", "encoder.norm_out", "encoder.conv_out", "decoder.conv_in", "decoder.middle"}
    between = {f"{name}.{kind}" for name in ("quant_conv", "post_quant_conv") for kind in ("weight", "bias")}
    assert changed(first, second) <= middle | between
    assert changed(second, third) <= {"decoder.norm_out", "decoder.conv_out"}
    assert changed(first, second) and changed(second, third)
    assert [manifest(folder)["facts"]["image_size"] for folder in (first, second, third)] == [16, 24, 16]
    assert [manifest(folder)["kind"] for folder in (first, second, third)] == ["phases", "phases", "autoencoder"]


def test_a_training_stopped_in_any_phase_goes_on_to_the_same_end(
    trained: Pipeline, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after 3 steps of each phase in turn, and begun again each time."""
    stopped, load, left = Pipeline(tmp_path, images), AutoencodingTask.load, 3

    def stopping(self: AutoencodingTask, batch: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stopped("stopped in a phase")
        return load(self, batch)

    monkeypatch.setattr(AutoencodingTask, "load", stopping)
    stops = 0
    while True:
        try:
            stopped.run("train-autoencoder", model=MODEL, phases=PHASES, train__checkpoint_every=8)
            break
        except Stopped:
            stops, left = stops + 1, 3
    assert stops == 5, "in each of the three"
    for whole, resumed in zip(folders(trained), folders(stopped), strict=True):
        expected, found = final(whole), final(resumed)
        assert all(torch.equal(expected[name], tensor) for name, tensor in found.items())


def test_what_a_folder_records_makes_it_again(trained: Pipeline, tmp_path: Path) -> None:
    """Each phase by its own recipe, which has the phases before it: complete where it lies, the same elsewhere."""
    for folder in folders(trained):
        settings = yaml.safe_load((folder / "config.yaml").read_text())["train-autoencoder"]
        config = TrainAutoencoder.model_validate(settings)
        assert [json.loads(each.model_dump_json()) for each in in_phases(config)][-1] == json.loads(
            config.model_dump_json()
        ), "read again, it means the same"
        assert run(["train-autoencoder", "-c", str(folder / "config.yaml"), "--runs-dir", str(trained.runs_dir)]) == 0
    elsewhere = ["train-autoencoder", "-c", str(folders(trained)[1] / "config.yaml"), "--runs-dir", str(tmp_path)]
    assert run(elsewhere) == 0
    again = tmp_path / trained.name / "phases" / "2"
    assert manifest(again)["files"] == manifest(folders(trained)[1])["files"]
    assert not (tmp_path / trained.name / "autoencoder").exists()


def test_latents_may_be_of_another_size_than_the_last_phase(trained: Pipeline, tmp_path: Path) -> None:
    """All that follows goes by the size of the latents' images."""
    run, heard = trained.copy(tmp_path), Heard()
    run.run("encode", heard, data__image_size=24)
    assert any("images of 24 x 24 pixels; the autoencoder was measured at 16 x 16" in note for note in heard.notes)
    facts = manifest(run.folder / "latents")["facts"]
    assert facts["image_size"] == 24 and facts["latent_shape"][1:] == [6, 6]
    run.through("train-denoiser", "train-classifier", "sample", "eval")
    drawn = next((run.folder / "samples").glob("*/000000.png"))
    assert Image.open(drawn).size == (24, 24)
    with pytest.raises(ConfigError, match="22"):
        run.run("encode", replace=True, data__image_size=22)
    with pytest.raises(ConfigError, match="channels=1` differs from the 3"):
        run.run("encode", replace=True, data__channels=1)


def test_a_phase_alone_can_be_looked_at_and_the_rest_trained_later(
    trained: Pipeline, images: Path, tmp_path: Path
) -> None:
    part = Pipeline(tmp_path, images)
    made = part.run("train-autoencoder", model=MODEL, phases=PHASES, last_phase=1)
    assert made.directory == part.folder / "phases" / "1" and not (part.folder / "phases" / "2").exists()
    assert made.next_commands == [f"ldm encode --runs-dir {tmp_path} --name tiny --autoencoder {made.directory}"]
    heard = Heard()
    part.run("train-autoencoder", heard, model=MODEL, phases=PHASES)
    assert heard.works.count("training") == 2, "the first is complete"
    assert manifest(part.folder / "autoencoder")["files"] == manifest(trained.folder / "autoencoder")["files"]


def test_a_vqvae_has_phases_too_and_damage_in_one_is_named_and_mended(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Pipeline(tmp_path, images)
    small = {"preset": "vqvae-xs", "channels": 8, "codebook_size": 16}
    made.run("train-vqvae", model=small, phases=("train.images=64", "part=head train.images=32"))
    first = made.folder / "phases" / "1"
    assert manifest(first)["kind"] == "phases" and manifest(made.folder / "vqvae")["facts"]["images_seen"] == 32
    before = manifest(first)
    weights = first / "final" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    capsys.readouterr()
    assert run(["verify", str(made.folder)]) == 3
    said = capsys.readouterr().err
    command = f"train-autoencoder -c {first / 'config.yaml'} --runs-dir {tmp_path} --name tiny"
    assert "phases/1/final/model.safetensors" in said and command in said
    assert run(command.split()) == 0
    assert manifest(first)["files"] == before["files"] and run(["verify", str(made.folder)]) == 0


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ("train.imags=3", "train.imags .* did you mean train.images"),
        ("train=3", "train in 'train=3' is no setting"),
        ("model.channels=8", "the same in all"),
        ("part", "key=value"),
        ("part=tail", "part: Input should be"),
        ("data.image_size=-1", "data.image_size: Input"),
        ("train.images=8 train.images=9", "twice"),
        ("part='head", "open quote"),
    ],
)
def test_a_phase_that_cannot_be_used_is_named(phase: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainAutoencoder.model_validate({"phases": ["train.images=8", phase]})


def test_what_does_not_fit_phases_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="33 are too many"):
        TrainAutoencoder.model_validate({"phases": ["part=all"] * 33})
    with pytest.raises(ValueError, match="there are 2 phases"):
        TrainAutoencoder.model_validate({"phases": ["part=all", "part=head"], "last_phase": 3})
    with pytest.raises(ConfigError, match="is not trained"):
        Pipeline(tmp_path, images).run("train-autoencoder", model={"preset": "identity"}, phases=PHASES)
    with pytest.raises(ConfigError, match="a part of a finished autoencoder"):
        Pipeline(tmp_path, images).run("train-autoencoder", model=MODEL, phases=("part=middle", "part=head"))


def test_the_report_and_the_estimate_have_each_phase(
    trained: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folders(trained)[0], trained.folder / "phases" / "first")  # by the user
    assert run(["report", "--runs-dir", str(trained.runs_dir), "--name", trained.name]) == 0
    page = (trained.folder / "report.html").read_text()
    assert all(f"Training the autoencoder, phase {number}" in page for number in (1, 2))
    recipe = {
        "data": {"source": str(trained.images), "image_size": 16},
        "train-autoencoder": {"model": MODEL, "phases": list(PHASES)},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    capsys.readouterr()
    assert run(["estimate", str(tmp_path / "recipe.yaml"), "seconds=0.1", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    outcome = next(event for event in events if event["event"] == "outcome")
    stages = {stage["stage"]: stage for stage in outcome["facts"]["stages"]}
    assert [stages[f"train-autoencoder {number}"]["images"] for number in (1, 2, 3)] == [64, 48, 32]
