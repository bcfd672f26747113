"""Trainings that start from the weights of finished ones: which weights are taken, and which parts then change."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ldm.core.conditioning.labels import LabelEmbedding
from ldm.core.denoisers.mnist_unet import MnistUNet
from ldm.core.denoisers.mnist_unet_config import MnistUNetConfig
from ldm.core.errors import ConfigError, Stopped
from ldm.core.features.classifier import Classifier, config_for
from ldm.core.runs.roles import DENOISER
from ldm.core.runs.run import open_run
from ldm.core.training.start import class_axes, rows_by_class
from tests.support.pipeline_run import Heard, Pipeline, manifest, write_squares


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    images = write_squares(tmp_path_factory.mktemp("images") / "squares")
    return Pipeline(tmp_path_factory.mktemp("runs"), images).through("train-vqvae", "encode", "train-dit")


def final(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "final" / "model.safetensors")


def test_a_table_follows_the_names_of_its_classes() -> None:
    table = torch.tensor([[1.0], [2.0], [6.0], [9.0]])  # a, b, c, and no class
    found = rows_by_class(table, ["a", "b", "c"], ["c", "d", "a"], 0, 4)
    assert found.flatten().tolist() == [6, 3, 1, 9]
    assert rows_by_class(table, ["a", "b", "c"], ["b"], 0, 1).flatten().tolist() == [2], "a model without a null"
    assert rows_by_class(table[:3].T, ["a", "b", "c"], ["b"], 1, 2).flatten().tolist() == [2, 3], "a null is new"


@pytest.mark.parametrize(
    ("network", "tables"),
    [
        (LabelEmbedding(3, True, 4), {"table.weight"}),
        (Classifier(config_for(3, 16)), {"head.weight", "head.bias"}),
        (
            MnistUNet(MnistUNetConfig(latent_channels=1, latent_size=28, num_classes=3, width=8)),
            {"classes.0.up.weight", "classes.1.up.weight"},
        ),
    ],
)
def test_every_tensor_whose_shape_depends_on_the_classes_is_a_table(network: nn.Module, tables: set[str]) -> None:
    axes = class_axes(network)
    assert axes.keys() == tables
    assert all(network.state_dict()[name].shape[axis] in (3, 4) for name, axis in axes.items())


def test_known_classes_keep_their_rows_and_a_new_one_starts_at_the_mean(encoded: Pipeline, tmp_path: Path) -> None:
    """Blue, green and red become blue, red and yellow."""
    other = Pipeline(tmp_path / "runs", write_squares(tmp_path / "squares", names=("blue", "red", "yellow")))
    other.through("train-vqvae", "encode")
    heard = Heard()
    made = other.run("train-dit", heard, start_from=encoded.folder, train__lr=1e-12).directory
    before, after = final(encoded.folder / "dit"), final(made)
    table, known = after.pop("label.table.weight"), before.pop("label.table.weight")
    torch.testing.assert_close(table, torch.stack([known[0], known[2], known[:3].mean(0), known[3]]))
    torch.testing.assert_close(after, before)
    recorded = manifest(made)["inputs"]["start_from"]
    assert recorded["fingerprint"] == open_run(encoded.folder / "dit", DENOISER, "").fingerprint
    assert any("new: yellow; left out: green" in note for note in heard.notes)
    # A stage's folder names the same weights as its run.
    again = other.run("train-dit", replace=True, start_from=encoded.folder / "dit", train__lr=1e-12).directory
    assert manifest(again)["inputs"]["start_from"]["fingerprint"] == recorded["fingerprint"]


@pytest.mark.parametrize(("place", "given"), [(".", "."), ("dit", ".."), ("dit", "."), ("dit/final", "../..")])
def test_the_folder_that_one_is_in_and_those_above_are_started_from(
    place: str, given: str, encoded: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Pipeline(tmp_path / "others", encoded.images)
    monkeypatch.chdir(encoded.folder / place)
    made = other.run("train-dit", start_from=given, latents=encoded.folder / "latents", train__images=8).directory
    path = manifest(made)["inputs"]["start_from"]["path"]
    assert (made / path).resolve() == (encoded.folder / "dit").resolve()


def test_latents_of_another_size_and_a_network_that_learns_its_variance_take_what_fits(
    encoded: Pipeline, tmp_path: Path
) -> None:
    large = Pipeline(tmp_path / "runs", encoded.images)
    large.run("train-vqvae", data__image_size=24)
    large.run("encode")
    heard = Heard()
    settings = {"start_from": encoded.folder, "train__lr": 1e-12}
    made = large.run("train-dit", heard, diffusion={"learn_variance": True}, **settings).directory
    before, after = final(encoded.folder / "dit"), final(made)
    anew = {name for name in before if before[name].shape != after[name].shape}
    assert anew == {"final.weight", "final.bias"}
    assert any("drawn anew: final.weight, final.bias" in note for note in heard.notes)
    torch.testing.assert_close(
        {n: after[n] for n in after if n not in anew}, {n: before[n] for n in after if n not in anew}
    )
    with pytest.raises(ConfigError, match="of this network's weights"):
        large.run("train-dit", replace=True, model={"preset": "dit-xs", "width": 64, "heads": 2}, **settings)


def test_classifiers_start_from_one_another(encoded: Pipeline, tmp_path: Path) -> None:
    copy = encoded.copy(tmp_path)
    small: dict[str, Any] = {"noisy": True, "noisy_model": {"width": 32, "depth": 1, "heads": 2}}
    for folder, settings in {"classifier": {}, "noisy-classifier": small}.items():
        copy.run("train-classifier", **settings)
        other = encoded.copy(tmp_path / folder)
        other.run("train-classifier", start_from=copy.folder / folder, train__lr=1e-12, **settings)
        torch.testing.assert_close(final(other.folder / folder), final(copy.folder / folder))
    with pytest.raises(ConfigError, match="holds 'classifier', not 'noisy-classifier'"):
        other.run("train-classifier", replace=True, start_from=copy.folder / "classifier", **small)


PARTS = {
    "middle": ("encoder.middle", "encoder.norm_out", "encoder.conv_out", "decoder.conv_in", "decoder.middle"),
    "decoder": ("decoder.", "post_quant_conv"),
    "head": ("decoder.norm_out", "decoder.conv_out"),
}
CODECS: dict[str, dict[str, Any]] = {
    "vqvae": {"preset": "vqvae-xs", "channels": 8, "codebook_size": 16},
    "kl": {"preset": "kl-f4-s", "channels": 8, "quant_convs": True},
}


@pytest.mark.parametrize(
    ("part", "family"),
    [
        ("middle", "kl"),
        ("decoder", "kl"),
        ("head", "vqvae"),
        pytest.param("decoder", "vqvae", marks=pytest.mark.slow),
        pytest.param("middle", "vqvae", marks=pytest.mark.slow),
        pytest.param("head", "kl", marks=pytest.mark.slow),
    ],
)
def test_a_part_is_trained_and_the_bytes_of_the_others_stay(
    part: str, family: str, encoded: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At another size, and interrupted: the end is that of an uninterrupted training."""
    whole, parent = Pipeline(tmp_path, encoded.images), Pipeline(tmp_path / "parent", encoded.images)
    parent.run("train-vqvae", model=CODECS[family])
    settings = {"model": CODECS[family], "start_from": parent.folder, "part": part, "data__image_size": 24}
    made = whole.run("train-vqvae", **settings).directory
    before, after = final(parent.folder / "vqvae"), final(made)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    between = ("quantizer", "quant_conv", "post_quant_conv") if part == "middle" else ()
    assert changed and all(name.startswith(PARTS[part] + between) for name in changed)
    statistics = [manifest(folder)["facts"]["latent_mean"] for folder in (made, parent.folder / "vqvae")]
    assert (statistics[0] == statistics[1]) is (part != "middle"), "whose encoder is the same has the same latents"

    from ldm.core.training.tasks.autoencoding import AutoencodingTask

    resumed, load, count = Pipeline(tmp_path / "resumed", encoded.images), AutoencodingTask.load, 0

    def stopping(self: AutoencodingTask, batch: Any) -> Any:
        nonlocal count
        count += 1
        if count == 7:
            raise Stopped("stopped in the middle")
        return load(self, batch)

    monkeypatch.setattr(AutoencodingTask, "load", stopping)
    with pytest.raises(Stopped):
        resumed.run("train-vqvae", **settings)
    monkeypatch.undo()
    resumed.run("train-vqvae", Heard(), **settings)
    assert all(torch.equal(tensor, after[name]) for name, tensor in final(resumed.folder / "vqvae").items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"part": "head"}, "a part of a finished autoencoder"),
        ({"part": "middle", "loss": {"adversarial_weight": 0.5}}, "leaves out the layer"),
        ({"model": {"preset": "identity"}}, "is not trained"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    settings: dict[str, Any], message: str, encoded: Pipeline, tmp_path: Path
) -> None:
    if settings != {"part": "head"}:
        settings = {"start_from": encoded.folder, **settings}
    with pytest.raises(ConfigError, match=message):
        Pipeline(tmp_path, encoded.images).run("train-vqvae", **settings)
