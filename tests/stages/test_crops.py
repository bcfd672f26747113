"""Crops of training images: encoded beside them, a condition of the network, and absent from what it draws."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from ldm.core.conditioning.conditioning import unconditional
from ldm.core.conditioning.crops import CROP
from ldm.core.conditioning.labels import LabelConditioning
from ldm.core.denoisers import registry as denoisers
from ldm.core.errors import ConfigError, DataError
from ldm.core.images.crops import random_crops
from ldm.core.images.decode import as_tensor
from ldm.core.images.order import mirrored
from ldm.core.images.sets import image_sources
from ldm.core.images.settings import Data
from ldm.core.latents.dataset import draw
from ldm.core.latents.fields import fields_of
from ldm.core.latents.index import INDEX
from ldm.core.latents.sets import read_latents
from ldm.core.latents.sharded import Reading, read_tables
from ldm.core.pipeline.loading import load_autoencoder, load_model
from ldm.core.progress import Silent
from ldm.core.runs.roles import AUTOENCODER, DENOISER, LATENTS
from ldm.core.runs.run import open_run
from ldm.core.system.precision import Policy
from ldm.core.training.tasks import denoising
from tests.support.pipeline_run import Pipeline, manifest, pngs, write_squares

SIDE, CROPS = 16, 3
SHORT = {"train__images": 64, "train__validate_every": 64}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("cropped") / "squares", per_class=8, size=24)


@pytest.fixture(scope="module", params=["pixels", "pixels, not mirrored", "posteriors"])
def encoded(request: pytest.FixtureRequest, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Latents with crops: pixels themselves, or those of a variational autoencoder."""
    pipeline, kind = Pipeline(tmp_path_factory.mktemp("encoded"), images), request.param
    data = {"source": str(images), "image_size": SIDE, "val_fraction": 0.25, "flip": "not" not in kind}
    model = {"preset": "identity"} if "pixels" in kind else {"preset": "kl-f4-xs", "channels": 8}
    pipeline.run("train-autoencoder", data=data, model=model, train__images=16)
    pipeline.run("encode", crops=CROPS, least_crop=0.6)
    return pipeline


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    pipeline = Pipeline(tmp_path_factory.mktemp("trained"), images)
    pipeline.run("train-vqvae")
    pipeline.run("encode", crops=CROPS)
    pipeline.run("train-dit", **SHORT)
    return pipeline


@pytest.mark.parametrize("reading", get_args(Reading))
def test_crops_are_read_with_their_conditions(encoded: Pipeline, reading: Reading) -> None:
    made = encoded.folder / "latents"
    sets = read_latents(open_run(made, LATENTS, ""), reading)
    train, flips = sets.train, bool(manifest(made)["facts"]["flips"])
    data = Data.model_validate({"source": str(encoded.images), "image_size": SIDE, "val_fraction": 0.25})
    loader = image_sources(data).read(Silent()).train
    samples, positions = np.arange(len(train)), np.arange(len(train)) + 5
    crops = positions % (CROPS + 1)
    many = [random_crops(int(sample), CROPS, (SIDE, SIDE), 0.6) for sample in samples]
    shown = np.concatenate([loader.batch(samples)[:, None], loader.crops(samples, many)], axis=1)
    pixels = as_tensor(shown[samples, crops])
    flip = mirrored(positions, 0) if flips else np.zeros(len(samples), bool)
    pixels[flip] = pixels[flip].flip(-1)

    # Means and deviations are those of the crops, mirrored with them; what is drawn of them is drawn as ever.
    source = open_run(encoded.folder / "autoencoder", AUTOENCODER, "")
    network = load_autoencoder(source, Policy(torch.device("cpu"), torch.float32)).network
    with torch.no_grad():
        mean, std = network.posterior(pixels)
    rows = (samples, flip if flips else None, crops)
    torch.testing.assert_close(train.array("npy", *rows).float(), mean, atol=4e-3, rtol=0)
    if std is not None:
        torch.testing.assert_close(train.array("std.npy", *rows).float(), std, atol=1e-3, rtol=2e-3)
    found, conditions = train.cropped(samples, positions, 0, crops)
    torch.testing.assert_close(found, draw(mean, std, positions, 0, "posterior"), atol=8e-3, rtol=0)

    # Conditions: zeros of whole images, and mirrored crops lie on the other side.
    for row, (sample, crop) in enumerate(zip(samples, crops, strict=True)):
        zoom, below, right = many[sample][crop - 1].condition((SIDE, SIDE)) if crop else np.zeros(3)
        np.testing.assert_allclose(conditions[row], [zoom, below, -right if flip[row] else right])

    # Without crops everything is as it was, and held-out images have none.
    whole = train.batch(samples, positions, 0)
    torch.testing.assert_close(whole[crops == 0], found[crops == 0], atol=0, rtol=0)
    assert "crop.npy" in train.fields and "crop.npy" not in sets.val.fields


@pytest.mark.parametrize("gone", [".crop2.", ".crop"])
def test_an_index_that_lacks_crops_is_refused(encoded: Pipeline, tmp_path: Path, gone: str) -> None:
    copy = encoded.copy(tmp_path)
    index = load_file(copy.folder / "latents" / INDEX)
    kept = {name: rows for name, rows in index.items() if gone not in name or ".crop.npy" in name}
    save_file(kept, copy.folder / "latents" / INDEX)
    facts = manifest(copy.folder / "latents")["facts"]
    with pytest.raises(DataError, match=r"index\.safetensors does not fit its shards"):
        read_tables(copy.folder / "latents", "train", facts["shards"]["train"], facts["latent_shape"], fields_of(facts))


def test_a_training_sees_crops_and_draws_as_if_there_were_none(trained: Pipeline) -> None:
    network = denoisers.load(trained.folder / "dit/final")
    assert network.config.scalars == (CROP,) and network.state_dict()["scalars.crop.weight"].abs().sum() > 0
    draw = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, *network.config.latent_shape, generator=draw), torch.tensor([0.3, 0.7])
    labels = torch.tensor([0, 2])
    crop_cond = {CROP: torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.1, -0.1]]), "labels": labels}
    with torch.no_grad():
        whole, some = network(x, t, {"labels": labels}), network(x, t, crop_cond)
    torch.testing.assert_close(whole[0], some[0], atol=1e-6, rtol=0)
    assert (whole[1] - some[1]).abs().max() > 1e-5
    # The null of guidance leaves what is crop_cond of the crop.
    null = unconditional(LabelConditioning(("blue", "green", "red")), crop_cond)
    assert null[CROP] is crop_cond[CROP] and (null["labels"] == 3).all()
    for more in ({}, {"cfg": 3.0}):
        assert len(pngs(trained.run("sample", label=f"s{len(more)}", **more).directory)) == 24


def test_what_is_made_of_it_knows_no_crops(trained: Pipeline, tmp_path: Path) -> None:
    """What draws, exports or teaches loads the network for whole images; other trainings may start from it."""
    run, policy = trained.config("sample"), Policy(torch.device("cpu"), torch.float32)
    assert load_model(open_run(trained.folder / "dit", DENOISER, ""), run, policy).network.config.scalars == ()
    copy = trained.copy(tmp_path)
    student = copy.run("distill").directory / "final"
    assert CROP not in denoisers.read_config(student).scalars
    for share in (0.0, 0.5):
        more = Pipeline(tmp_path, trained.images, f"share {share}")
        more.run("train-dit", **SHORT, latents=trained.folder / "latents", start_from=trained.folder, crop_share=share)
        assert denoisers.read_config(more.folder / "dit/final").scalars == ((CROP,) if share else ())


def test_no_share_of_crops_is_the_training_without_them(trained: Pipeline, tmp_path: Path) -> None:
    without = Pipeline(tmp_path, trained.images)
    autoencoder = trained.folder / "vqvae"
    without.run("encode", autoencoder=autoencoder)
    plain = without.run("train-dit", **SHORT).directory / "final/model.safetensors"
    same = without.run("train-dit", **SHORT, latents=trained.folder / "latents", crop_share=0, name="same")
    assert plain.read_bytes() == (same.directory / "final/model.safetensors").read_bytes()
    assert not denoisers.read_config(same.directory / "final").scalars


def test_a_training_with_crops_goes_on_to_the_bit(
    trained: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = trained.folder / "latents"
    again = Pipeline(tmp_path, trained.images)
    whole_loss, steps_left = denoising.DenoisingTask.loss, iter(range(6))

    def loss(self: denoising.DenoisingTask, role: str, data: denoising.Data) -> object:
        if next(steps_left) == 5:
            raise KeyboardInterrupt
        return whole_loss(self, role, data)

    with monkeypatch.context() as failing, pytest.raises(KeyboardInterrupt):
        failing.setattr(denoising.DenoisingTask, "loss", loss)
        again.run("train-dit", **SHORT, latents=latents)
    assert list((again.folder / "dit/checkpoints").iterdir())
    done = again.run("train-dit", **SHORT, latents=latents).directory / "final/model.safetensors"
    assert done.read_bytes() == (trained.folder / "dit/final/model.safetensors").read_bytes()


def test_what_cannot_have_crops_is_refused(trained: Pipeline, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`crops=2` with `data\.masks`") as said:
        trained.copy(tmp_path / "masks").run("encode", crops=2, data={"masks": True})
    assert "leave out" in str(said.value.remedy)
    other = Pipeline(tmp_path, images)
    other.run("encode", autoencoder=trained.folder / "vqvae")
    with pytest.raises(ConfigError, match=r"`crop_share=0\.3`: the latents have no crops") as said:
        other.run("train-dit", crop_share=0.3)
    assert "encode with" in str(said.value.remedy)
    with pytest.raises(ConfigError, match="of which the unet-mnist family takes no condition") as said:
        other.run("train-denoiser", **SHORT, latents=trained.folder / "latents", model={"preset": "unet-mnist"})
    assert "crop_share=0" in str(said.value.remedy)
