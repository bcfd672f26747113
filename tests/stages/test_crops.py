"""Crops of training images: encoded beside them, told to the network, and absent from what it draws."""

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
from ldm.core.images.crops import drawn
from ldm.core.images.decode import as_tensor
from ldm.core.images.order import mirrored
from ldm.core.images.sets import image_sources
from ldm.core.images.settings import Data
from ldm.core.latents.index import INDEX
from ldm.core.latents.sets import read_latents
from ldm.core.latents.sharded import Reading
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


@pytest.fixture(scope="module", params=[True, False], ids=["mirrored", "as they are"])
def pixels(request: pytest.FixtureRequest, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Pixels as latents, with crops."""
    pipeline = Pipeline(tmp_path_factory.mktemp("pixels"), images)
    data = {"source": str(images), "image_size": SIDE, "val_fraction": 0.25, "flip": request.param}
    pipeline.run("train-vqvae", data=data, model={"preset": "identity"})
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
def test_crops_are_read_with_what_is_told_of_them(pixels: Pipeline, reading: Reading) -> None:
    made = pixels.folder / "latents"
    sets = read_latents(open_run(made, LATENTS, ""), reading)
    train, flips = sets.train, bool(manifest(made)["facts"]["flips"])
    data = Data.model_validate({"source": str(pixels.images), "image_size": SIDE, "val_fraction": 0.25})
    loader = image_sources(data).read(Silent()).train
    samples, positions = np.arange(len(train)), np.arange(len(train)) + 5
    crops = positions % (CROPS + 1)
    many = [drawn(int(sample), CROPS, (SIDE, SIDE), 0.6) for sample in samples]
    shown = np.concatenate([loader.batch(samples)[:, None], loader.crops(samples, many)], axis=1)
    expected = as_tensor(shown[samples, crops])
    flip = mirrored(positions, 0) if flips else np.zeros(len(samples), bool)
    expected[flip] = expected[flip].flip(-1)
    # What is told: nothing of whole images, and of mirrored crops that they lie on the other side.
    told = train.told(samples, positions, 0, crops).numpy()
    for row, (sample, crop) in enumerate(zip(samples, crops, strict=True)):
        zoom, below, right = many[sample][crop - 1].told((SIDE, SIDE)) if crop else np.zeros(3)
        np.testing.assert_allclose(told[row], [zoom, below, -right if flip[row] else right])
    found = train.batch(samples, positions, 0, crops=crops)
    source = open_run(pixels.folder / "vqvae", AUTOENCODER, "")
    network = load_autoencoder(source, Policy(torch.device("cpu"), torch.float32)).network
    torch.testing.assert_close(found, network.posterior(expected)[0], atol=2e-3, rtol=0)
    # Without crops everything is as it was, and held-out images have none.
    whole = train.batch(samples, positions, 0)
    torch.testing.assert_close(whole[crops == 0], found[crops == 0], atol=0, rtol=0)
    assert "crop.npy" in train.fields and "crop.npy" not in sets.val.fields


def test_an_index_that_lacks_a_crop_is_refused(pixels: Pipeline, tmp_path: Path) -> None:
    copy = pixels.copy(tmp_path)
    index = load_file(copy.folder / "latents" / INDEX)
    save_file({name: rows for name, rows in index.items() if ".crop2." not in name}, copy.folder / "latents" / INDEX)
    with pytest.raises(DataError, match=r"index\.safetensors"):
        read_latents(open_run(copy.folder / "latents", LATENTS, ""))


def test_a_training_sees_crops_and_draws_as_if_there_were_none(trained: Pipeline) -> None:
    network = denoisers.load(trained.folder / "dit/final")
    assert network.config.scalars == (CROP,) and network.state_dict()["scalars.crop.weight"].abs().sum() > 0
    draw = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, *network.config.latent_shape, generator=draw), torch.tensor([0.3, 0.7])
    labels = torch.tensor([0, 2])
    told = {CROP: torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.1, -0.1]]), "labels": labels}
    with torch.no_grad():
        whole, some = network(x, t, {"labels": labels}), network(x, t, told)
    torch.testing.assert_close(whole[0], some[0], atol=1e-6, rtol=0)
    assert (whole[1] - some[1]).abs().max() > 1e-5
    # The null of guidance leaves what is told of the crop.
    null = unconditional(LabelConditioning(("blue", "green", "red")), told)
    assert null[CROP] is told[CROP] and (null["labels"] == 3).all()
    for more in ({}, {"cfg": 3.0}):
        assert len(pngs(trained.run("sample", label=f"s{len(more)}", **more).directory)) == 24


def test_what_is_made_of_it_knows_no_crops(trained: Pipeline, tmp_path: Path) -> None:
    """Drawing, exporting and distilling work on the network for whole images; other trainings may start from it."""
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
    with pytest.raises(ConfigError, match="masks are of whole images") as said:
        trained.copy(tmp_path / "masks").run("encode", crops=2, data={"masks": True})
    assert "leave out" in str(said.value.remedy)
    other = Pipeline(tmp_path, images)
    other.run("encode", autoencoder=trained.folder / "vqvae")
    with pytest.raises(ConfigError, match=r"`crop_share=0\.3`: the latents have no crops") as said:
        other.run("train-dit", crop_share=0.3)
    assert "encode with" in str(said.value.remedy)
    with pytest.raises(ConfigError, match="unet-mnist family cannot be told of crops") as said:
        other.run("train-denoiser", **SHORT, latents=trained.folder / "latents", model={"preset": "unet-mnist"})
    assert "crop_share=0" in str(said.value.remedy)
