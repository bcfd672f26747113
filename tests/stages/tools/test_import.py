"""`ldm import`: runs that `ldm sample` accepts, out of the authors' checkpoints and diffusers' pipelines."""

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file

from ldm.cli.main import run as ldm
from ldm.core.errors import ConfigError, DataError
from ldm.core.interchange.export_record import RECORD
from ldm.core.pipeline.loading import load_model
from ldm.core.progress import Silent
from ldm.core.runs.roles import DENOISER
from ldm.core.runs.run import open_run
from ldm.core.runs.weights import WEIGHTS
from ldm.core.system.precision import resolve
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from ldm.stages.tools.directories import command_line_of
from tests.support.authors_dit import forward, random_checkpoint, training_checkpoint
from tests.support.exchanged import drawn, levels_apart, run_export, run_import
from tests.support.pipeline_run import Heard, Pipeline, manifest

SCALE = 0.18215
CPU = resolve("cpu", "fp32")


@pytest.fixture
def fresh(tmp_path: Path) -> Pipeline:
    return Pipeline(tmp_path / "runs", tmp_path / "no images", "theirs")


@pytest.fixture(scope="module")
def kl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random AutoencoderKL of four latent channels, twice smaller, with the scaling factor of Stable Diffusion's."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 4}
    settings |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    folder = tmp_path_factory.mktemp("kl")
    diffusers.AutoencoderKL(**settings, scaling_factor=SCALE).save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save(training_checkpoint(classes=3), tmp_path / "DiT.pt")
    return tmp_path / "DiT.pt"


def altered(exported: Path, tmp_path: Path, file: str, **changes: Any) -> Path:
    """A copy of a pipeline's folder with one of its JSON files changed."""
    copy = tmp_path / "altered"
    shutil.copytree(exported, copy)
    (copy / RECORD).unlink()  # as of somebody else's
    content = json.loads((copy / file).read_text()) | changes
    (copy / file).write_text(json.dumps(content))
    return copy


def test_there_and_back_draws_the_same_images(drawing: Pipeline, exported: Path, fresh: Pipeline) -> None:
    outcome = run_import(fresh, exported)
    assert outcome.next_commands[0].startswith("ldm sample --runs-dir")
    fresh.run("sample", num=4, steps=20, cfg=2.5, label="shown")
    assert levels_apart(drawn(fresh, "shown"), drawn(drawing, "shown")) <= 1
    before, after = manifest(drawing.folder / "dit")["facts"], manifest(fresh.folder / "dit")["facts"]
    for name in ("class_names", "latent_shape", "image_size"):
        assert before[name] == after[name]
    for name in ("schedule", "num_steps", "zero_terminal_snr", "prediction", "learn_variance", "shift"):
        assert before["diffusion"][name] == after["diffusion"][name]


def test_what_was_imported_is_exported_again(exported: Path, fresh: Pipeline, tmp_path: Path) -> None:
    run_import(fresh, exported)
    run_export(fresh, tmp_path / "again")
    weights = "transformer/diffusion_pytorch_model.safetensors"
    first, second = (
        diffusers.DiTTransformer2DModel.from_pretrained(folder / "transformer").state_dict()
        for folder in (exported, tmp_path / "again")
    )
    assert (tmp_path / "again" / weights).is_file()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-6, atol=1e-6, msg=name)
    assert "Not known: the model was imported." in (tmp_path / "again" / "README.md").read_text()


def test_a_checkpoint_is_sampled_with_its_learned_variance(checkpoint: Path, kl: Path, fresh: Pipeline) -> None:
    run_import(fresh, checkpoint, autoencoder=kl, heads=2)
    source = open_run(fresh.folder / "dit", DENOISER, "")
    model = load_model(source, fresh.config("sample"), CPU)
    state = training_checkpoint(classes=3)["ema"]
    x, steps = torch.randn(4, 4, 8, 8), torch.tensor([0, 300, 700, 999])
    with torch.no_grad():
        ours = model.network(x, (steps + 1) / 1000, {"labels": torch.arange(4)})
    torch.testing.assert_close(ours, forward(state, 2, x, steps, torch.arange(4)), rtol=1e-5, atol=1e-5)
    assert (model.schedule.kind, model.diffusion.prediction, model.diffusion.learn_variance) == ("linear", "eps", True)
    torch.testing.assert_close(model.autoencoder.latent_std, torch.full((4,), 1 / SCALE))
    assert torch.count_nonzero(model.autoencoder.latent_mean) == 0
    ways: dict[str, dict[str, Any]] = {"all": {}, "three": {"cfg_channels": 3}, "ddpm": {"sampler": "ddpm"}}
    for label, settings in ways.items():
        fresh.run("sample", num=1, steps=4, cfg=4.0, label=label, **settings)
    assert levels_apart(drawn(fresh, "all"), drawn(fresh, "three")) > 0
    assert source.metadata["class_names"] == ["class 0", "class 1", "class 2"]


def test_a_training_starts_from_an_imported_checkpoint(
    checkpoint: Path, kl: Path, fresh: Pipeline, drawing: Pipeline, tmp_path: Path
) -> None:
    run_import(fresh, checkpoint, autoencoder=kl, heads=2)
    own = Pipeline(tmp_path / "own", drawing.images)
    own.run("encode", autoencoder=fresh.folder / "vqvae", data__source=str(drawing.images), data__flip=False)
    diffusion = {"schedule": "linear", "prediction": "eps", "weighting": "snr", "learn_variance": True}
    model = {"preset": "dit-xs", "width": 32, "depth": 2, "heads": 2, "patch_size": 2}
    settings = {
        "diffusion": diffusion,
        "model": model,
        "train__images": 8,
        "train__lr": 1e-20,
    }  # far below the rounding of weights
    outcome = own.run("train-dit", start_from=fresh.folder, **settings)
    theirs, ours = (load_file(folder / "final" / WEIGHTS) for folder in (fresh.folder / "dit", outcome.directory))
    for name, tensor in ours.items():
        same = slice(3, None) if tensor.shape == (4, 32) else slice(None)  # Of classes the null: no other has its name.
        torch.testing.assert_close(tensor[same], theirs[name][same], rtol=0, atol=1e-12)


def test_the_same_command_again_is_complete_and_another_model_is_refused(
    checkpoint: Path, kl: Path, fresh: Pipeline, tmp_path: Path
) -> None:
    assert not run_import(fresh, checkpoint, autoencoder=kl, heads=2).already_complete
    assert run_import(fresh, checkpoint, autoencoder=kl, heads=2).already_complete
    torch.save(random_checkpoint(classes=4), checkpoint)
    with pytest.raises(ConfigError, match="class_names"):
        run_import(fresh, checkpoint, autoencoder=kl, heads=2)
    run_import(fresh, checkpoint, autoencoder=kl, heads=2, replace=True)
    assert len(manifest(fresh.folder / "dit")["facts"]["class_names"]) == 4


def test_an_imported_run_is_verified_and_distinguished(checkpoint: Path, kl: Path, fresh: Pipeline) -> None:
    run_import(fresh, checkpoint, autoencoder=kl, heads=2)
    outcome = verify.run(Verify(path=fresh.folder), Silent())
    assert outcome.summary["verified"] == "vqvae, dit"
    for kind in ("vqvae", "dit"):
        command = command_line_of(fresh.folder / kind, kind)
        placed = f"--runs-dir {fresh.runs_dir} --name {fresh.name}"
        assert command == f"ldm import {checkpoint} --autoencoder {kl} --heads 2 {placed}"
    weights = fresh.folder / "dit" / "final" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"model\.safetensors is damaged"):
        verify.run(Verify(path=fresh.folder), Silent())


def test_a_trained_run_is_not_overwritten(exported: Path, copied: Pipeline) -> None:
    before = manifest(copied.folder / "dit")
    with pytest.raises(ConfigError, match="other settings or inputs"):
        run_import(copied, exported)
    assert manifest(copied.folder / "dit") == before


def test_a_denoiser_that_was_imported_is_not_trained_over(exported: Path, fresh: Pipeline, drawing: Pipeline) -> None:
    run_import(fresh, exported)
    before = manifest(fresh.folder / "dit")
    with pytest.raises(ConfigError, match="other settings or inputs"):
        fresh.run("train-dit", latents=drawing.folder / "latents")
    assert manifest(fresh.folder / "dit") == before


def test_names_of_classes_come_from_a_file_of_as_many_lines(
    checkpoint: Path, kl: Path, fresh: Pipeline, tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("tench\ngoldfish, Carassius auratus\n")
    with pytest.raises(DataError, match="2 lines, the denoiser 3 classes"):
        run_import(fresh, checkpoint, autoencoder=kl, heads=2, class_names=names)
    names.write_text("tench\ngoldfish, Carassius auratus\nré\n")
    run_import(fresh, checkpoint, autoencoder=kl, heads=2, class_names=names)
    assert manifest(fresh.folder / "dit")["facts"]["class_names"][1] == "goldfish, Carassius auratus"


def test_flags_that_do_not_go_with_the_path_are_refused(
    checkpoint: Path, exported: Path, kl: Path, fresh: Pipeline, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="add `autoencoder=FOLDER`"):
        run_import(fresh, checkpoint, heads=2)
    with pytest.raises(ConfigError, match="`heads` applies to a checkpoint"):
        run_import(fresh, exported, heads=2)
    with pytest.raises(ConfigError, match="not a folder"):
        run_import(fresh, checkpoint, autoencoder=tmp_path / "absent", heads=2)
    torch.save(random_checkpoint(channels=3), checkpoint)
    with pytest.raises(ConfigError, match="3 channels, the autoencoder's 4"):
        run_import(fresh, checkpoint, autoencoder=kl, heads=2)


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "describes a FluxPipeline"),
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "unet is None"),
        ("model_index.json", {"vae": ["os", "system"]}, r"vae is \['os', 'system'\]"),
        ("model_index.json", {"transformer": ["my_module", "DiTTransformer2DModel"]}, "my_module"),
        ("model_index.json", {"id2label": {"1000": "x"}}, "id2label"),
        ("model_index.json", {"id2label": {"0": 3}}, "id2label"),
        ("transformer/config.json", {"attention_head_dim": 8}, "does not fit"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "prediction_type"),
        (
            "scheduler/scheduler_config.json",
            {"trained_betas": None, "rescale_betas_zero_snr": True, "prediction_type": "epsilon"},
            "cannot be sampled",
        ),
        ("vae/config.json", {"scaling_factor": None}, "scaling_factor"),
        ("vae/config.json", {"latent_channels": 7}, "cannot be loaded|does not fit"),
    ],
)
def test_a_pipeline_that_is_no_dit_is_refused_by_name(
    file: str, changes: dict[str, Any], named: str, exported: Path, fresh: Pipeline, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=named):
        run_import(fresh, altered(exported, tmp_path, file, **changes))
    assert not (fresh.folder / "dit" / "manifest.json").exists()


def test_a_pickle_in_a_pipeline_runs_nothing(exported: Path, fresh: Pipeline, tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'mark'}",)

    copy = altered(exported, tmp_path, "model_index.json")
    weights = copy / "transformer" / "diffusion_pytorch_model"
    state = diffusers.DiTTransformer2DModel.from_pretrained(copy / "transformer").state_dict()
    weights.with_suffix(".safetensors").unlink()
    torch.save(state | {"bad": Runs()}, weights.with_suffix(".bin"))
    with pytest.raises(DataError, match=r"\.bin holds something other than weights"):
        run_import(fresh, copy)
    torch.save(state, weights.with_suffix(".bin"))
    run_import(fresh, copy)
    assert not (tmp_path / "mark").exists()


def test_a_scheduler_that_clips_is_reported(exported: Path, fresh: Pipeline, tmp_path: Path) -> None:
    heard = Heard()
    run_import(fresh, altered(exported, tmp_path, "scheduler/scheduler_config.json", clip_sample=True), heard)
    assert "clips every estimate of x0" in heard.warnings[0]


@pytest.mark.parametrize("content", ["import: {path: elsewhere}", "import: {", None])
def test_a_damaged_recipe_of_an_import_is_written_again_by_the_same_import(
    content: str | None, checkpoint: Path, kl: Path, fresh: Pipeline
) -> None:
    run_import(fresh, checkpoint, autoencoder=kl, heads=2)
    recipe = fresh.folder / "dit" / "config.yaml"
    whole = recipe.read_bytes()
    recipe.unlink() if content is None else recipe.write_text(content)
    with pytest.raises(DataError, match=r"config\.yaml is damaged: it says another import") as caught:
        verify.run(Verify(path=fresh.folder), Silent())
    command = str(caught.value.remedy).partition(": ")[2]
    assert command.startswith("ldm import ") and ldm([*shlex.split(command)[1:], "--quiet"]) == 0
    assert recipe.read_bytes() == whole and verify.run(Verify(path=fresh.folder), Silent()).verdict == "is whole"
