"""Exports of models of prompts: what stock classes draw from them, and runs that are made of such folders again."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from ldm.core import seeds
from ldm.core.errors import ConfigError, DataError
from ldm.core.interchange.export_record import RECORD
from ldm.core.progress import Silent
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from tests.stages.test_text import write_captioned
from tests.support import stock_texts
from tests.support.exchanged import drawn, levels_apart, run_export, run_import
from tests.support.pipeline_run import Heard, Pipeline, manifest, write_squares
from tests.support.text_encoders import save_clip, save_decoder, save_t5

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
PROMPTS = ("a red square on blue", "green on a red ground")
GUIDANCE, STEPS = 3.0, 10
MMDIT = {"preset": "mmdit-xs", "width": 32, "depth": 2, "heads": 2}
SANA = {"preset": "linear-dit-xs", "width": 32, "depth": 2, "heads": 2, "cross_heads": 2}
UNET = {"preset": "ldm-xs", "channels": 8, "multipliers": (1, 2), "groups": 4, "heads": 2, "blocks": "res cross,res"}
OWN = {"text_width": 16, "text_layers": 1}
FLOW = {"schedule": "rectified-flow", "shift": 3.0}


@dataclass(frozen=True)
class Case:
    """A run and its export. encoders: folders of text encoders, none for `own`. pipeline: what draws, or None."""

    model: dict[str, Any]
    encoders: tuple[str, ...] = ()
    text: dict[str, Any] = field(default_factory=dict)
    diffusion: dict[str, Any] = field(default_factory=dict)
    vae: str = "kl"
    pipeline: str | None = None


CASES = {
    "stable-diffusion": Case(UNET, ("clip",), {"padding": "seen", "layer": "last"}, pipeline="StableDiffusionPipeline"),
    "sd3": Case(MMDIT, ("l", "g", "t5"), {"padding": "seen"}, FLOW, pipeline="StableDiffusion3Pipeline"),
    "sd3-two": Case(MMDIT, ("l", "g"), {"padding": "seen"}, pipeline="StableDiffusion3Pipeline"),
    "sana": Case(SANA, ("decoder",), {}, FLOW, "dc", "SanaPipeline"),
    "sd3-masked": Case(MMDIT, ("l", "g"), {}, FLOW),
    "sd3-own": Case({**MMDIT, **OWN}, diffusion={"learn_variance": True}),
    "sana-own": Case({**SANA, **OWN}, diffusion=FLOW, vae="dc measured"),
    "unet-own": Case({**UNET, **OWN}, diffusion=FLOW),
}
SAVED = {
    "clip": lambda folder: save_clip(folder, width=8),
    "l": lambda folder: save_clip(folder, True, width=8),
    "g": lambda folder: save_clip(folder, True, seed=1, width=16),
    "t5": save_t5,
    "decoder": save_decoder,
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captioned images, and autoencoders of diffusers."""
    root = tmp_path_factory.mktemp("given")
    for side in (16, 32):
        write_captioned(root / f"images-{side}", 16, side)
    torch.manual_seed(0)
    layers: dict[str, Any] = {"block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 4}
    layers |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    diffusers.AutoencoderKL(**layers, scaling_factor=0.5, shift_factor=0.1).save_pretrained(root / "kl")
    sides: dict[str, Any] = {"block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"), "layers_per_block": (1,) * 3}
    sides |= {"block_out_channels": (8, 16, 16), "qkv_multiscales": ((), (), (5,))}
    each = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sides.items()}
    diffusers.AutoencoderDC(latent_channels=4, attention_head_dim=8, scaling_factor=0.4, **each).save_pretrained(
        root / "dc"
    )
    return root


def trained(case: Case, given: Path, root: Path) -> Pipeline:
    """Train a run for an instant, and draw from it."""
    side = 16 if case.vae == "kl" else 32
    run = Pipeline(root / "runs", given / f"images-{side}")
    data = {"image_size": side, "val_fraction": 0.25, "source": str(run.images)}
    if case.vae == "dc":  # with the one deviation of its scaling_factor
        run_import(run, given / "dc", image_size=side)
    else:
        run.run("train-autoencoder", autoencoder=given / case.vae.split()[0], data=data)
    for name in case.encoders:
        SAVED[name](root / name)
    encoder = {"encoder": tuple(str(root / name) for name in case.encoders)} if case.encoders else {}
    run.run("encode", text={**case.text, **encoder}, data={"source": str(run.images), "val_fraction": 0.25})
    training = {"preview__every": 0, "train__images": 64, "train__lr": 1e-2}
    run.run("train-denoiser", model=case.model, diffusion=case.diffusion, **training)
    draw(run)
    return run


def draw(run: Pipeline) -> np.ndarray:
    run.run("sample", prompt=PROMPTS, num=1, steps=STEPS, cfg=GUIDANCE, label="shown")
    return drawn(run, "shown")


def noise_of(run: Pipeline) -> np.ndarray:
    """The noise that the images began from."""
    shape = tuple(manifest(run.folder / "denoiser")["facts"]["latent_shape"])
    images = manifest(run.folder / "samples" / "shown")["facts"]["images"]
    return torch.cat([seeds.normal(image["seed"], "initial noise", [0], shape) for image in images]).numpy()


ASKED = {"prompts": PROMPTS, "guidance": GUIDANCE, "steps": STEPS}


@pytest.mark.promise("R25")
def test_a_unet_of_prompts_becomes_a_stable_diffusion_pipeline_and_comes_back(given: Path, tmp_path: Path) -> None:
    run = trained(CASES["stable-diffusion"], given, tmp_path)
    out = tmp_path / "out"
    assert run_export(run, out).summary["of"] == "prompts"
    index = json.loads((out / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline" and index["text_encoder"][0] == "transformers"
    ours = drawn(run, "shown")
    assert levels_apart(stock_texts.draw(str(out), noise_of(run), ASKED), ours) <= 1
    assert levels_apart(ours[:1], ours[1:]) > 10, "the prompt matters"

    # A run of the folder draws the same, with the folder's own text encoder, which is known by its hash.
    back = Pipeline(tmp_path / "back", run.images)
    outcome = run_import(back, out)
    assert "--prompt" in outcome.next_commands[0]
    assert levels_apart(draw(back), ours) <= 1
    assert verify.run(Verify(path=back.folder), Silent()).verdict == "is whole"
    encoder = manifest(back.folder / "denoiser")["facts"]["conditioning"]["encoder"]
    assert encoder["parts"][0]["folder"] == (out / "text_encoder").as_posix()
    save_clip(out / "text_encoder", width=8, seed=5)
    with pytest.raises(DataError, match="text_encoder is another text encoder than the clip"):
        back.run("sample", prompt=("a blue square",), num=1)
    (out / RECORD).unlink()
    shutil.rmtree(out / "text_encoder")
    with pytest.raises(ConfigError, match="text_encoder` is not a folder"):
        run_import(Pipeline(tmp_path / "gone", run.images), out)
    (out / "model_index.json").write_text(json.dumps({**index, "text_encoder": [None, None]}))
    with pytest.raises(DataError, match="is without its text_encoder"):
        run_import(Pipeline(tmp_path / "gone", run.images), out)
    (out / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    with pytest.raises(DataError, match="describes a StableDiffusionXLPipeline") as refused:
        run_import(Pipeline(tmp_path / "gone", run.images), out)
    assert "takes sizes and crops" in str(refused.value.remedy)


@pytest.mark.slow
@pytest.mark.promise("R25")
def test_without_ldm_stock_classes_draw_the_images_of_prompts_of_ldm_sample(given: Path, tmp_path: Path) -> None:
    """By the code on the model card: of a pipeline where its parts are stock, else with prompts as tensors."""
    (tmp_path / "asked.json").write_text(json.dumps(ASKED))
    (tmp_path / "empty").mkdir()
    runs, words = {}, []
    for name, case in CASES.items():
        runs[name] = trained(case, given, tmp_path / name)
        heard, asked = Heard(), {} if case.pipeline else {"prompt": PROMPTS}
        run_export(runs[name], tmp_path / f"{name}-out", heard, **asked)
        assert not heard.warnings and (case.pipeline is None) == any("as tensors" in note for note in heard.notes)
        np.save(tmp_path / f"{name}-noise.npy", noise_of(runs[name]))
        words += [str(tmp_path / word) for word in (f"{name}-out", f"{name}-noise.npy", "asked.json", f"{name}.npy")]
    program = [sys.executable, "-I", stock_texts.__file__, *words]
    done = subprocess.run(program, cwd=tmp_path / "empty", capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stderr
    for name, case in CASES.items():
        ours, out = drawn(runs[name], "shown"), tmp_path / f"{name}-out"
        assert ours.std() > 5 and levels_apart(ours[:1], ours[1:]) > 10, name
        assert levels_apart(np.load(tmp_path / f"{name}.npy"), ours) <= 1, name
        if case.pipeline is None:
            assert not (out / "model_index.json").exists() and (out / "prompts.safetensors").is_file()
            continue
        assert json.loads((out / "model_index.json").read_text())["_class_name"] == case.pipeline
        back = Pipeline(tmp_path / "back" / name, runs[name].images)
        run_import(back, out)
        assert levels_apart(draw(back), ours) <= 1, name


@pytest.mark.slow
@pytest.mark.promise("R25")
def test_classes_of_an_mm_dit_are_given_as_tensors_of_one_token(given: Path, tmp_path: Path) -> None:
    run = Pipeline(tmp_path / "runs", write_squares(tmp_path / "squares", per_class=8))
    run.run("train-autoencoder", autoencoder=given / "kl", data={"image_size": 16, "source": str(run.images)})
    run.run("encode")
    run.run("train-denoiser", model=MMDIT, preview__every=0, train__lr=1e-2, diffusion=FLOW)
    run.run("sample", num=1, steps=STEPS, cfg=GUIDANCE, label="shown")
    heard = Heard()
    assert run_export(run, tmp_path / "out", heard).summary["of"] == "3 prompts as tensors"
    assert "reads prompts, and this run classes" in heard.notes[0]
    asked = {"prompts": ["blue", "green", "red"], "guidance": GUIDANCE, "steps": STEPS}
    made = stock_texts.draw(str(tmp_path / "out"), noise_of(run), asked)
    assert levels_apart(made, drawn(run, "shown")) <= 1
    with pytest.raises(ConfigError, match="conditioned on classes"):
        run_export(run, tmp_path / "other", prompt=("a cat",))


@pytest.mark.slow
def test_prompts_alone_are_exported_for_a_folder_that_has_none(given: Path, tmp_path: Path) -> None:
    run = trained(CASES["sd3-own"], given, tmp_path)
    run_export(run, tmp_path / "out")
    outcome = run_export(run, tmp_path / "more", part="prompts", prompt=PROMPTS)
    assert outcome.summary["prompts"].startswith("2: 'a red square on blue'")
    assert run_export(run, tmp_path / "more", part="prompts", prompt=PROMPTS).already_complete
    with safe_open(tmp_path / "more" / "prompts.safetensors", "pt") as file:
        assert file.metadata() == {"0": PROMPTS[0], "1": PROMPTS[1]}
        assert file.get_tensor("1.prompt_embeds").shape == (1, 7, 16)
        assert file.get_tensor("negative.prompt_embeds").shape == (1, 2, 16)
    shutil.copy(tmp_path / "more" / "prompts.safetensors", tmp_path / "out")
    made = stock_texts.draw(str(tmp_path / "out"), noise_of(run), ASKED)
    assert levels_apart(made, drawn(run, "shown")) <= 1
    code = (tmp_path / "out" / "README.md").read_text()
    assert re.search(r"its text network was trained with it", code)


def test_what_has_no_effect_on_an_export_is_refused(given: Path, tmp_path: Path) -> None:
    run = Pipeline(tmp_path, given)
    with pytest.raises(ConfigError, match="`prompt` has no effect on an autoencoder alone"):
        run_export(run, tmp_path / "out", part="autoencoder", prompt=PROMPTS)
