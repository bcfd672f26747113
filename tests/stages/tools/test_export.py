"""`ldm export`: what stock diffusers draws from it, the model card, and what it never overwrites."""

import hashlib
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ldm.cli.main import run as ldm
from ldm.core import seeds
from ldm.core.errors import ConfigError, DataError
from ldm.core.interchange import model_spec
from ldm.core.interchange.export_record import RECORD, read_record
from ldm.core.progress import Silent
from ldm.core.runs.roles import DENOISER
from ldm.core.runs.run import open_run
from ldm.stages.configs.folders import Inspect, Verify
from ldm.stages.tools import export, inspect, verify
from tests.support.exchanged import drawn, feed_of, levels_apart, output_of, run_export, run_import
from tests.support.pipeline_run import Heard, Pipeline
from tests.support.stock_diffusers import draw


@pytest.fixture
def straight(drawing: Pipeline, tmp_path: Path) -> Pipeline:
    """A rectified flow without a null class on the latents of a random AutoencoderKL, its times shifted."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 4}
    settings |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    diffusers.AutoencoderKL(**settings).save_pretrained(tmp_path / "kl")
    pipeline = Pipeline(tmp_path / "runs", drawing.images)
    pipeline.run("train-vqvae", autoencoder=tmp_path / "kl")
    pipeline.through("encode")
    flow = {"schedule": "rectified-flow", "shift": 1.5}
    pipeline.run("train-dit", diffusion=flow, label_dropout=0.0, preview__cfg=1.0, train__lr=1e-3)
    pipeline.run("sample", num=2, steps=10, cfg=1.0, label="shown")
    return pipeline


@pytest.mark.promise("R25")
def test_rectified_flow_comes_along_with_a_kl_autoencoder(straight: Pipeline, tmp_path: Path) -> None:
    run_export(straight, tmp_path / "out")
    feed = feed_of(straight, num=2, guidance=1.0, steps=10, ahead=0)
    made = draw(str(tmp_path / "out"), feed)
    np.testing.assert_allclose(made["output"], output_of(straight, feed), rtol=0, atol=1e-5)
    assert levels_apart(made["images"], drawn(straight, "shown")) <= 1
    card = (tmp_path / "out" / "README.md").read_text()
    assert "no null class: give `guidance_scale=1`" in card and "guidance_scale=1," in card
    assert np.isnan(draw(str(tmp_path / "out"), feed | {"guidance": 3.0})["images"]).all()


@pytest.mark.promise("R25")
def test_a_unet_without_conditions_becomes_an_ldm_pipeline_and_comes_back(
    drawing: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Pipeline(tmp_path / "runs", drawing.images)
    for stage in ("vqvae", "latents"):
        shutil.copytree(drawing.folder / stage, run.folder / stage)
    small = {"preset": "unet-xs", "channels": 8, "multipliers": (1, 2), "groups": 4, "head_width": 8}
    small |= {"blocks": "res,res attn"}
    alone = {"conditioning": "none", "label_dropout": 0.0, "preview__cfg": 1.0}
    run.run("train-denoiser", model=small, train__lr=1e-2, **alone)
    run.run("sample", num=3, steps=10, cfg=1.0, label="shown")
    run_export(run, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "from diffusers import LDMPipeline" in card and "## Classes" not in card

    # The same noise in theirs, and in what is imported from it.
    pipeline: Any = diffusers.LDMPipeline.from_pretrained(tmp_path / "out")
    shape = tuple(open_run(run.folder / "denoiser", DENOISER, "").metadata["latent_shape"])
    noise = torch.cat([seeds.normal(seed, "initial noise", [0], shape) for seed in range(3)])
    monkeypatch.setattr(sys.modules[diffusers.LDMPipeline.__module__], "randn_tensor", lambda *given, **more: noise)
    images = pipeline(batch_size=3, num_inference_steps=10, output_type="np").images
    assert levels_apart(images, drawn(run, "shown")) <= 1
    back = Pipeline(tmp_path / "back", drawing.images)
    run_import(back, tmp_path / "out")
    back.run("sample", num=3, steps=10, cfg=1.0, label="shown")
    assert levels_apart(drawn(back, "shown"), drawn(run, "shown")) <= 1

    # One with classes has no such pipeline.
    run.run("train-denoiser", model=small, replace=True, train__images=8)
    with pytest.raises(ConfigError, match="no pipeline of diffusers draws from a U-Net of latents with 3 classes"):
        run_export(run, tmp_path / "other")


@pytest.mark.promise("R25")
def test_a_student_of_one_scale_draws_in_stock_classes_what_it_draws_here(drawing: Pipeline, tmp_path: Path) -> None:
    run = drawing.copy(tmp_path / "runs")
    run.run("distill", steps=2, first_steps=2, guidance=(3.0, 3.0))
    student = run.folder / "students" / "2"
    run.run("sample", num=2, steps=None, denoiser=student, label="shown")
    run_export(run, tmp_path / "out", denoiser=student)
    made = draw(str(tmp_path / "out"), feed_of(run, num=2, guidance=1.0, steps=2))
    assert levels_apart(made["images"], drawn(run, "shown")) <= 1
    card = (tmp_path / "out" / "README.md").read_text()
    assert "guidance_scale=1, num_inference_steps=2)" in card and "guidance of scale 3 inside" in card


@pytest.mark.promise("R25")
def test_a_student_that_takes_its_scale_is_exported_at_one_of_them(drawing: Pipeline, tmp_path: Path) -> None:
    run = drawing.copy(tmp_path / "runs")
    run.run("distill", steps=2, first_steps=2, guidance=(1.0, 4.0), train__lr=1e-2)
    student = run.folder / "students" / "2"
    for scale, label in ((1.5, "weak"), (None, "usual")):
        run.run("sample", num=2, steps=None, cfg=scale, denoiser=student, label=label)
        run_export(run, tmp_path / label, denoiser=student, cfg=scale)
        made = draw(str(tmp_path / label), feed_of(run, num=2, guidance=1.0, steps=2))
        assert levels_apart(made["images"], drawn(run, label)) <= 1
        record = json.loads((tmp_path / label / "ldm-export.json").read_text())
        assert record["made_of"]["cfg"] == (scale or 3.0)
        card = (tmp_path / label / "README.md").read_text()
        assert f"guidance of scale {scale or 3:g} inside" in card
    assert levels_apart(drawn(run, "weak"), drawn(run, "usual")) > 1, "the scale is of effect"
    with pytest.raises(ConfigError, match=r"`cfg=5`.*from 1 to 4"):
        run_export(run, tmp_path / "other", denoiser=student, cfg=5.0)
    with pytest.raises(ConfigError, match="`cfg` has no effect on a denoiser that was not distilled"):
        run_export(run, tmp_path / "other", cfg=3.0)
    again = read_record(tmp_path / "weak").command
    assert again.endswith(f"--denoiser {student}") and "--cfg 1.5" in again


def test_a_student_whose_times_stock_classes_do_not_visit_is_refused(drawing: Pipeline, tmp_path: Path) -> None:
    run = drawing.copy(tmp_path / "runs")
    run.run("distill", steps=16, first_steps=16, guidance=(3.0, 3.0), train__images=8)
    with pytest.raises(ConfigError, match="in 16 steps"):
        run_export(run, tmp_path / "out", denoiser=run.folder / "students" / "16")
    assert not (tmp_path / "out").exists()


def test_the_folder_names_stock_classes_only_and_holds_no_pickle(drawing: Pipeline, exported: Path) -> None:
    index = json.loads((exported / "model_index.json").read_text())
    assert index["_class_name"] == "DiTPipeline"
    assert [index[part][0] for part in ("transformer", "vae", "scheduler")] == ["diffusers"] * 3
    files = [path for path in exported.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".png"}
    texts = [path.read_text() for path in files if path.suffix in (".json", ".md")]
    assert not [text for text in texts if str(drawing.images.parent) in text or str(exported.parent) in text]


def test_each_file_of_weights_says_in_its_header_what_it_is_and_has_the_hash_of_its_tensors(exported: Path) -> None:
    found = {path.parent.name: path for path in exported.rglob("*.safetensors")}
    for part, network in (("transformer", "DiTTransformer2DModel"), ("vae", "VQModel")):
        with safe_open(found[part], "pt") as file:
            keys = file.metadata()
            assert len(list(file.keys())) > 10
        assert keys["modelspec.architecture"] == network and keys["modelspec.resolution"] == "16x16"
        assert keys["modelspec.title"].endswith(part) and keys["format"] == "pt"
        content = found[part].read_bytes()
        tensors = content[8 + int.from_bytes(content[:8], "little") :]
        assert keys["modelspec.hash_sha256"] == f"0x{hashlib.sha256(tensors).hexdigest()}"


def test_a_header_is_written_over_the_same_tensors_and_alike_each_time(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 5), "b": torch.arange(7)}
    written = []
    for name in ("one", "two"):
        save_file(tensors, tmp_path / name, metadata={"format": "pt"})
        model_spec.write_header(tmp_path / name, {"modelspec.title": "é", "modelspec.architecture": "x"})
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    found = load_file(tmp_path / "one")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items()) and len(found) == 2


def test_the_card_tells_data_settings_numbers_and_what_to_know(drawing: Pipeline, exported: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(exported / "README.md", ignore_metadata_errors=True)
    assert card.data.library_name == "diffusers" and card.data.license is None
    for said in (
        *("![samples](grid.png)", '["blue", "green", "red"]', "`squares`, cropped to 16 pixels", "diffusion.schedule"),
        *("images seen | 640", "guidance_scale=2.5", "| class_accuracy", "n_samples: 12", "Labels 3 to 999"),
        *("divides 1000", "float32 only", "`encode` gives NaN"),
    ):
        assert said in card.text, said
    grid = drawing.folder / "samples" / "shown" / "grid.png"
    assert (exported / "grid.png").read_bytes() == grid.read_bytes()


def test_again_is_complete_and_new_samples_need_replace(drawing: Pipeline, exported: Path, tmp_path: Path) -> None:
    run = Pipeline(tmp_path / "runs", drawing.images)
    shutil.copytree(drawing.runs_dir, run.runs_dir)
    copy = tmp_path / "out"
    shutil.copytree(exported, copy)
    assert run_export(run, copy).already_complete
    run.run("sample", num=2, steps=2, classes="red", label="later")
    with pytest.raises(ConfigError, match="another state of the run"):
        run_export(run, copy)
    assert not run_export(run, copy, replace=True).already_complete
    later = run.folder / "samples" / "later" / "grid.png"
    assert (copy / "grid.png").read_bytes() == later.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "runs"]


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_of_other_files_is_left_alone(
    replace: bool, drawing: Pipeline, exported: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with pytest.raises(ConfigError, match="not an export of ldm"):
        run_export(drawing, tmp_path / "photos", replace=replace)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not a folder"):
        run_export(drawing, tmp_path / "file", replace=replace)
    for number, (name, harm) in enumerate({"README.md": b"licence: mine", "notes.txt": b"mine"}.items()):
        copy = tmp_path / str(number)
        shutil.copytree(exported, copy)
        (copy / name).write_bytes(harm)
        with pytest.raises(ConfigError, match=f"{name} was changed or added"):
            run_export(drawing, copy, replace=replace)
        assert (copy / name).read_bytes() == harm


def test_what_cannot_be_expressed_is_refused_before_anything_is_written(
    drawing: Pipeline, trained: Pipeline, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"model\.channels 8 of the autoencoder"):
        run_export(trained, tmp_path / "out")
    other = Pipeline(tmp_path / "runs", drawing.images)
    other.run("train-dit", latents=drawing.folder / "latents", model__qk_norm=True, train__images=8)
    with pytest.raises(ConfigError, match="qk_norm True of the denoiser"):
        run_export(other, tmp_path / "out")
    with pytest.raises(DataError, match="ldm train-dit"):
        run_export(Pipeline(tmp_path / "none", drawing.images), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shifted_times_that_diffusers_has_not_are_reported(drawing: Pipeline, tmp_path: Path) -> None:
    shifted, heard = Pipeline(tmp_path / "runs", drawing.images), Heard()
    shifted.run("train-dit", latents=drawing.folder / "latents", diffusion__shift=2.0, train__images=8)
    run_export(shifted, tmp_path / "out", heard)
    assert "shift=1" in heard.warnings[0]
    assert "`ldm sample shift=1`" in (tmp_path / "out" / export.CARD).read_text()


def test_a_start_that_diffusers_does_not_share_is_reported(drawing: Pipeline, tmp_path: Path) -> None:
    noise, heard = Pipeline(tmp_path / "runs", drawing.images), Heard()
    eps = {"diffusion": {"schedule": "linear", "prediction": "eps", "num_steps": 200}, "train__images": 8}
    noise.run("train-dit", latents=drawing.folder / "latents", **eps)
    run_export(noise, tmp_path / "out", heard)
    assert len(heard.warnings) == 1 and "multiplied by 182, and `ldm sample` at 0.99" in heard.warnings[0]
    assert "`ldm sample` at 0.99" in (tmp_path / "out" / export.CARD).read_text()


def harmed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def checked(folder: Path) -> str | None:
    """Verify a folder. Returns the remedy, None where it is whole."""
    try:
        assert verify.run(Verify(path=folder), Silent()).verdict == "is whole"
    except DataError as error:
        return str(error.remedy)
    return None


@pytest.fixture
def own(drawing: Pipeline, tmp_path: Path) -> Path:
    """An export of a run that lies beside it."""
    run = Pipeline(tmp_path / "runs", drawing.images)
    shutil.copytree(drawing.runs_dir, run.runs_dir)
    run_export(run, tmp_path / "my export")
    return tmp_path / "my export"


def test_each_file_of_an_export_is_verified_and_the_named_command_mends_it(own: Path) -> None:
    assert checked(own) is None and checked(own.parent) is None
    weights, config = own / "vae" / "diffusion_pytorch_model.safetensors", own / "transformer" / "config.json"
    for path, harm in ((weights, harmed), (config, harmed), (weights, Path.unlink), (own / "README.md", Path.unlink)):
        harm(path)
        with pytest.raises(DataError, match=f"{path.name} is (damaged|missing)"):
            verify.run(Verify(path=own), Silent())
        moved, _, command = str(checked(own)).rpartition("make it again: ")
        assert moved == (f"move {shlex.quote(str(path))} away; then " if harm is harmed else "")
        if moved:
            path.rename(own.parent / "away")
        assert ldm([*shlex.split(command)[1:], "--quiet"]) == 0
        assert checked(own) is None


def test_an_exported_decoder_is_refused_where_images_are_to_be_encoded(own: Path, drawing: Pipeline) -> None:
    run = Pipeline(own.parent / "others", drawing.images)
    folder = next(path for path in (own / "vae", own / "vqvae") if path.is_dir())
    with pytest.raises(ConfigError, match="only decodes: its encoder was not exported with it"):
        run.run("train-vqvae", autoencoder=folder)


def test_a_completed_card_and_added_files_are_no_damage(own: Path) -> None:
    (own / "README.md").write_text("licence: mine")
    (own / "notes.txt").touch()
    assert checked(own) is None
    (own / "scheduler" / "scheduler_config.json").unlink()
    remedy = str(checked(own))
    assert "README.md" in remedy and "notes.txt" in remedy, "what --replace would refuse to discard"


def test_a_damaged_record_is_named_and_those_of_before_are_read(own: Path) -> None:
    content = json.loads((own / RECORD).read_text())
    for change in ({"made_of": {}}, {"files": []}, {"files": {"../x": "0"}, "record_sha256": None}):
        (own / RECORD).write_text(json.dumps(content | change))
        assert "away; then make it again: ldm export" in str(checked(own))
        assert inspect.run(Inspect(path=own), Silent()).summary["state"].startswith("damaged: ")
    (own / RECORD).write_text(json.dumps({name: content[name] for name in ("made_of", "files")}))
    assert checked(own) is None
    (own / "grid.png").unlink()
    assert str(checked(own)).endswith("--name RUN --replace")


def test_inspect_says_what_an_export_is_and_whether_it_is_complete(own: Path) -> None:
    outcome = inspect.run(Inspect(path=own), Silent())
    assert outcome.verdict == "is an export" and outcome.summary["state"] == "complete"
    dit = json.loads((own.parent / "runs" / "tiny" / "dit" / "manifest.json").read_text())
    assert (
        outcome.summary["of denoiser"] == open_run(own.parent / "runs" / "tiny" / "dit", DENOISER, "").fingerprint[:12]
    )
    assert outcome.summary["made with"].startswith(f"ldm {dit['provenance']['ldm']}")
    assert outcome.summary["made at"].endswith("Z") and "runs --name tiny" in outcome.summary["made by"]
    (own / "grid.png").write_bytes(b"")
    (own / "notes.txt").touch()
    summary = inspect.run(Inspect(path=own), Silent()).summary
    assert "grid.png is damaged: it has 0 bytes" in summary["state"] and "added: notes.txt" in summary["files"]
    assert "export, damaged" in inspect.run(Inspect(path=own.parent), Silent()).summary["my export"]
