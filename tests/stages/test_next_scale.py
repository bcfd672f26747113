"""A next-scale transformer through the stages: tokens in the shards, training, samples by seed, evaluation."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.core.errors import ConfigError, DataError
from ldm.core.images.weights import loss_weights
from ldm.core.progress import Silent
from ldm.core.training.tasks import next_scale as next_scale_task
from ldm.core.training.tasks.next_scale import token_weights
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from ldm.stages.tools.report import _chapters
from ldm.stages.tools.reporting.gaps import gaps
from ldm.stages.tools.summary import read
from tests.support.as_they_are import write_images
from tests.support.pipeline_run import MULTI_SCALE, Pipeline, manifest, pngs, write_squares

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(next_scale: Pipeline) -> Pipeline:
    return next_scale


def drawn(pipeline: Pipeline, label: str, **changes: Any) -> dict[str, bytes]:
    pipeline.run("sample", label=label, **{"num": 3, "steps": None, **changes})
    return pngs(pipeline.folder / "samples" / label)


def test_the_report_of_a_run_without_a_denoiser_shows_each_scale_and_says_what_is_next(
    trained: Pipeline, tmp_path: Path
) -> None:
    run = read(trained.folder, print)
    assert run.generator.path == trained.folder / "var"
    titles = [picture.caption for chapter in _chapters(run) for picture in chapter.pictures]
    assert {
        "Autoencoder: PSNR after each scale, dB",
        "Autoencoder: codes in use at each scale, share",
        "Next-scale transformer: loss of each scale, nats a token",
    } <= set(titles)
    assert any(chapter.title == "Training the next-scale transformer" for chapter in _chapters(run))
    advice = [gap.command for gap in gaps(trained.config("sample"), run)]
    assert any("sweep" in command and "--cfg" in command for command in advice)
    assert not any("--steps" in command or "train-dit" in command for command in advice)
    fewer = trained.copy(tmp_path)
    shutil.rmtree(fewer.folder / "var")
    assert "train-dit" in next(gaps(fewer.config("sample"), read(fewer.folder, print))).command


def test_a_complete_training_does_not_load_its_autoencoder(trained: Pipeline, tmp_path: Path) -> None:
    copied = trained.copy(tmp_path)
    (copied.folder / "autoencoder" / "final" / "model.safetensors").unlink()
    assert copied.run("train-var").already_complete


def test_the_loader_of_the_docs_draws_the_same_with_torch_alone(trained: Pipeline, tmp_path: Path) -> None:
    """In a process that has neither ldm nor safetensors."""
    page = (ROOT / "docs" / "next-scale.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    (tmp_path / "draw.py").write_text(code)
    folders = [str(trained.folder / stage) for stage in ("autoencoder", "var")]
    program = (
        f"import sys; sys.modules['ldm'] = sys.modules['safetensors'] = None; sys.path.insert(0, {str(tmp_path)!r});"
        " import draw, torch; torch.set_num_threads(1);"
        f" images = draw.draw(*{folders!r}, [0, 1, 2], cfg=2.5, temperature=0.0);"
        " print(((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    made = np.array(json.loads(done.stdout))
    trained.run("sample", label="greedy", num=1, steps=None, cfg=2.5, temperature=0.0)
    folder = trained.folder / "samples" / "greedy"
    ours = np.stack([np.asarray(Image.open(folder / name)) for name in sorted(pngs(folder))]).astype(int)
    assert ours.std() > 5 and np.abs(made - ours).max() <= 1


def test_reconstructions_are_shown_after_each_scale(trained: Pipeline) -> None:
    (path,) = sorted((trained.folder / "autoencoder" / "reconstructions").glob("*.png"))[-1:]
    plain = Image.open(path).size[1]
    rows = len(MULTI_SCALE["scales"]) + 1  # the original, the first scales, and all of them
    assert plain % rows < plain / rows and plain > rows * 16


def test_tokens_are_in_the_shards_and_the_loss_of_each_scale_is_logged(trained: Pipeline) -> None:
    latents = manifest(trained.folder / "latents")["facts"]
    assert latents["token_maps"] == [[1, 1], [2, 2], [4, 4]] and latents["fields"]["tokens.npy"]["shape"] == [21]
    lines = [json.loads(line) for line in (trained.folder / "var" / "metrics.jsonl").read_text().splitlines()]
    assert any({"loss_1", "loss_2", "loss_4"} <= line.keys() for line in lines)
    assert any({"val_loss", "val_loss_4"} <= line.keys() for line in lines)
    assert manifest(trained.folder / "var")["facts"]["scales"] == [1, 2, 4]


def test_an_image_follows_from_its_seed_whatever_is_drawn_with_it(trained: Pipeline) -> None:
    together = drawn(trained, "together", classes="all", cfg=2.0, top_k=8, top_p=0.9)
    alone = drawn(trained, "alone", classes="0", cfg=2.0, top_k=8, top_p=0.9, batch_size=1)
    assert len(together) == 9 and alone == {name: together[name] for name in alone}
    assert manifest(trained.folder / "samples" / "alone")["facts"]["sampling"]["sampler"] == "next-scale"
    assert drawn(trained, "likeliest", classes="0", temperature=0.0) != alone


def test_the_newest_checkpoint_of_an_unfinished_training_is_drawn_from(trained: Pipeline, tmp_path: Path) -> None:
    expected, pipeline = drawn(trained, "at-the-end"), trained.copy(tmp_path)
    (pipeline.folder / "var" / "manifest.json").unlink()
    assert drawn(pipeline, "now", checkpoint="latest") == expected


def test_samples_are_evaluated_and_shown_scale_by_scale_and_everything_verifies(trained: Pipeline) -> None:
    drawn(trained, "shown", progressive=True, num=4)
    assert (trained.folder / "samples" / "shown" / "progressive.png").is_file()
    trained.run("eval", samples="shown")
    assert manifest(trained.folder / "eval" / "shown")["facts"]["numbers"]
    verify.run(Verify(path=trained.folder), Silent())


def test_settings_of_denoisers_are_refused_here_and_those_of_tokens_there(trained: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`sampler=heun` is not a setting of a next-scale transformer"):
        trained.run("sample", sampler="heun", steps=None)
    with pytest.raises(ConfigError, match="tokens are drawn without one"):
        trained.run("train-var", replace=True, metrics={"every": 32, "steps": 5})
    both = trained.copy(tmp_path)
    both.run("train-dit")
    with pytest.raises(ConfigError, match="`top_k=5` is not a setting of a denoiser"):
        both.run("sample", denoiser=both.folder / "dit", top_k=5)


def test_latents_without_tokens_are_refused_before_training(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, write_squares(tmp_path / "squares", size=16))
    pipeline.through("train-vqvae", "encode")
    with pytest.raises(ConfigError, match="no tokens of several scales"):
        pipeline.run("train-var")


def test_a_damaged_transformer_is_named(trained: Pipeline, tmp_path: Path) -> None:
    weights = trained.folder / "var" / "final" / "model.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-4] + bytes(4 * [7]))
        with pytest.raises(DataError, match=r"model\.safetensors"):
            trained.run("sample", label="damaged", steps=None)
    finally:
        weights.write_bytes(content)


def test_unlabelled_training_draws_without_classes(trained: Pipeline, tmp_path: Path) -> None:
    other = trained.copy(tmp_path)
    other.run("train-var", conditioning="none", replace=True)
    other.run("sample", label="any", num=2, steps=None)
    assert len(pngs(other.folder / "samples" / "any")) == 2


def test_metrics_in_training_measure_the_samples_and_keep_the_best(trained: Pipeline, tmp_path: Path) -> None:
    other = trained.copy(tmp_path)
    other.run("train-var", metrics={"every": 32, "num": 12}, replace=True, seed=1)
    assert manifest(other.folder / "var" / "best")["facts"]["best"]["criterion"]
    best = drawn(other, "best", classes="0", checkpoint="best")
    assert len(best) == 3 and np.all([len(each) > 0 for each in best.values()])


def test_masks_weight_the_tokens_that_they_cover_and_labels_of_several_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(tmp_path / "runs", write_images(tmp_path / "squares"))
    data = {"source": str(pipeline.images), "image_size": 16, "masks": True, "val_fraction": 0.25, "flip": False}
    pipeline.run("train-autoencoder", data=data, model=MULTI_SCALE, train__images=8)
    pipeline.run("encode", conditioning="attributes")
    short = {"train__images": 8, "train__validate_every": 8, "preview__every": 0}
    with pytest.raises(ConfigError, match="labels or nothing, not on attributes"):
        pipeline.run("train-var", **short)
    weighted = manifest(pipeline.run("train-var", conditioning="labels", **short).directory)["facts"]
    tokens = sum(side**2 for side in MULTI_SCALE["scales"])
    monkeypatch.setattr(next_scale_task, "token_weights", lambda weights, _: torch.ones(len(weights), tokens))
    shutil.rmtree(pipeline.folder / "var")
    plain = manifest(pipeline.run("train-var", conditioning="labels", **short).directory)["facts"]
    assert np.isfinite(weighted["validation_loss"]) and weighted["validation_loss"] != plain["validation_loss"]


def test_the_weight_of_a_token_is_the_share_of_its_pixels_that_count() -> None:
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, ..., :1], mask[1, ..., :2] = 1, 1
    one, two, four = token_weights(loss_weights(mask), (1, 2, 4)).split((1, 4, 16), dim=1)
    assert one.tolist() == [[1], [1]]
    assert two.tolist() == [[2, 0, 2, 0]] * 2
    assert four.tolist() == [[4, 0, 0, 0] * 4, [2, 2, 0, 0] * 4]
