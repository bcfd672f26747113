"""Families of codecs other than the VQ-VAE through the stages: pixels, and one that is only known to this test."""

import json
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldm.core.autoencoders import registry
from ldm.core.autoencoders.codec import Draws
from ldm.core.autoencoders.families import FAMILIES
from ldm.core.errors import ConfigError, Stopped
from ldm.core.latents.shards import shard_name
from ldm.core.progress import Silent
from ldm.core.settings.families import Family
from ldm.core.training.tasks.autoencoding import AutoencodingTask
from ldm.stages.configs.folders import Verify
from ldm.stages.configs.report import Report
from ldm.stages.tools import report, verify
from tests.support.pipeline_run import Heard, Pipeline, manifest, write_squares
from tests.support.small_runs import contents, metrics
from tests.support.toy_codec import ToyConfig, ToyKL

KL: dict[str, Any] = {
    "model": {"preset": "kl-f4-xs", "channels": 8},
    "loss": {"adversarial_weight": 0.5, "adversarial_start": 24, "equivariance": 0.5},
    "train__log_every": 8,
}


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("images") / "squares", size=16)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a family as a new file would: with one line."""
    monkeypatch.setitem(FAMILIES, "toy", Family(ToyConfig, "toy_codec:ToyKL"))


@pytest.mark.parametrize(("preset", "channels"), [("identity", 3), ("identity-grey", 1)])
def test_a_model_of_pixels_is_measured_encoded_trained_and_sampled(
    preset: str, channels: int, squares: Path, tmp_path: Path
) -> None:
    pipeline = Pipeline(tmp_path, squares)
    pipeline.run("train-vqvae", model={"preset": preset})
    made = manifest(pipeline.folder / "vqvae")["facts"]
    assert made["trained"] is False and made["latent_shape"] == [channels, 16, 16]
    assert channels == 1 or made["val_psnr"] == 100  # not a bit is lost
    network = registry.load(pipeline.folder / "vqvae" / "final")
    assert not list(network.parameters())
    pipeline.through("encode", "train-dit", "sample")
    with tarfile.open(pipeline.folder / "latents" / shard_name("train", 0)) as shard:
        member = next(each for each in shard if each.name.endswith(".npy"))
        content = shard.extractfile(member)
        assert content is not None
        latents = np.load(BytesIO(content.read()))
    pixels = (network.decode(torch.from_numpy(latents)[None]) + 1) * 127.5 * (3 / channels)  # grey is in thirds
    assert float((pixels - pixels.round()).abs().max()) < 0.2  # float16 keeps all values of 8 bits apart
    verify.run(Verify(path=pipeline.folder), Silent())


def test_settings_of_training_that_a_model_of_pixels_has_no_use_for_are_named(squares: Path, tmp_path: Path) -> None:
    heard = Heard()
    Pipeline(tmp_path, squares).run("train-vqvae", heard, model={"preset": "identity"}, train={"lr": 1.0}, loss={})
    assert heard.warnings == ["nothing of this autoencoder is trained: train.lr has no effect"]


def test_a_setting_of_another_family_is_refused_with_the_familys_own(squares: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a setting of the identity family; it has image_channels"):
        Pipeline(tmp_path, squares).config("train-vqvae", model={"preset": "identity", "codebook_size": 16})


def test_a_family_with_a_random_posterior_is_one_file_and_one_line(toy: None, squares: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, squares)
    pipeline.run("train-vqvae", model={"preset": "toy-kl"}, loss={"adversarial_weight": 0.5, "adversarial_start": 16})
    pipeline.run("encode")
    logged = [json.loads(line) for line in (pipeline.folder / "vqvae" / "metrics.jsonl").read_text().splitlines()]
    assert any("kl" in line for line in logged) and any("val_kl" in line for line in logged)
    made = registry.load(pipeline.folder / "vqvae" / "final")
    assert isinstance(made.codec, ToyKL) and int(made.codec.norm.num_batches_tracked) == 8
    with tarfile.open(pipeline.folder / "latents" / shard_name("train", 0)) as shard:
        assert {name.partition(".")[2] for name in shard.getnames()} >= {"npy", "std.npy", "flip.std.npy"}


def test_a_kl_autoencoder_goes_on_to_the_bit_and_is_verified_and_shown(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = Pipeline(tmp_path / "whole", squares), Pipeline(tmp_path / "stopped", squares)
    whole.run("train-autoencoder", **KL)
    losses = AutoencodingTask.loss

    def stopping(task: AutoencodingTask, role: str, data: Any) -> Any:
        if task.images_seen == 40:
            raise Stopped("stopped in the middle")
        return losses(task, role, data)

    with monkeypatch.context() as patched:
        patched.setattr(AutoencodingTask, "loss", stopping)
        with pytest.raises(Stopped):
            stopped.run("train-autoencoder", **KL)
    stopped.run("train-autoencoder", **KL)
    folder = whole.folder / "autoencoder"
    assert contents(stopped.folder / "autoencoder") == contents(folder)
    names = {name for line in metrics(folder) for name in line}
    assert names >= {"pixel_loss", "kl_divergence", "adversarial_loss", "val_kl_divergence", "val_mu_std", "val_sigma"}
    assert [path.name for path in sorted((folder / "prior").iterdir())] == ["0000000000.png", "0000000064.png"]

    # Shards hold both moments, from which a denoiser trains, and everything is whole.
    whole.through("encode", "train-denoiser")
    assert verify.run(Verify(path=whole.folder), Silent()).verdict == "is whole"
    report.run(Report(name=whole.name, runs_dir=whole.runs_dir), Silent())
    page = (whole.folder / "report.html").read_text()
    for shown in ("KL divergence, nats per latent value", "latents of N(0, I)", "validation mean σ"):
        assert shown in page, shown


def test_a_deep_compression_autoencoder_is_trained_in_phases(squares: Path, tmp_path: Path) -> None:
    model = {"preset": "dc-f8-s", "encoder_depths": [0, 1, 1, 1], "batch_norm_levels": 2}
    first, second = Pipeline(tmp_path, squares, "first"), Pipeline(tmp_path, squares, "second")
    first.run("train-autoencoder", model=model, train__images=32)
    head = {"start_from": first.folder, "part": "head", "loss": KL["loss"], "data__image_size": 32}
    second.run("train-autoencoder", model=model, train__images=32, **head)
    before, after = (registry.load(each.folder / "autoencoder" / "final").codec for each in (first, second))
    states = before.state_dict(), after.state_dict()
    changed = {name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    assert not {name for name in changed if name.startswith(("decoder.conv_in.", "decoder.up_blocks.3."))}
    second.run("encode")
    assert verify.run(Verify(path=second.folder), Silent()).verdict == "is whole"


def test_draws_follow_from_the_place_in_the_stream_whatever_the_passes() -> None:
    draws = Draws(3, 640, np.arange(640, 648))
    parts = [each.normal("posterior", (2, 4)) for each in draws.split(4)]
    assert torch.equal(torch.cat(parts), draws.normal("posterior", (2, 4)))
    assert torch.equal(torch.cat([each.uniform("scale") for each in draws.split(2)]), draws.uniform("scale"))


def test_a_size_that_a_codec_does_not_take_is_refused_by_the_one_it_takes(
    toy: None, squares: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="use squares of 16"):
        Pipeline(tmp_path, squares).run("train-vqvae", model={"preset": "toy-kl"}, data__image_size=32)
