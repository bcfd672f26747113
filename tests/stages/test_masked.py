"""Masks beside images weight the loss of reconstructions and of denoising; they are no images themselves."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.core.autoencoders.losses import RECONSTRUCTION, masked_loss
from ldm.core.diffusion.objective import WEIGHTS, Denoising
from ldm.core.diffusion.schedules import schedule
from ldm.core.errors import DataError
from ldm.core.images.sets import image_sources
from ldm.core.images.settings import Data
from ldm.core.images.weights import advice_on_masks, loss_weights
from ldm.core.latents.dataset import weights_of
from ldm.core.latents.from_images import latents_of_images
from ldm.core.latents.sets import read_latents
from ldm.core.pipeline.loading import load_autoencoder
from ldm.core.progress import Silent
from ldm.core.runs.roles import AUTOENCODER, LATENTS
from ldm.core.runs.run import open_run
from ldm.core.system.precision import Policy
from ldm.stages.configs.data_tools import DataInspect
from ldm.stages.tools import data_inspect
from tests.support.pipeline_run import Heard, Pipeline, manifest, write_squares

SIDE = 16


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares, of most of which the left quarter counts."""
    folder = write_squares(tmp_path_factory.mktemp("masked") / "squares", per_class=8, size=SIDE)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, : SIDE // 4] = 255
    for number in range(6):
        for name in ("red", "green"):
            Image.fromarray(mask).save(folder / name / f"{number:03d}-mask.png")
    return folder


def data_of(images: Path, **more: object) -> Data:
    given = {"source": str(images), "image_size": SIDE, "val_fraction": 0.25, "masks": True, **more}
    return Data.model_validate(given)


def test_masks_are_no_images_and_count_what_they_show(images: Path) -> None:
    sources = image_sources(data_of(images))
    read = sources.read(Silent())
    assert len(sources.train) + len(sources.val) == 24 and not any("mask" in name for name in sources.train.names)
    assert sources.inputs.keys() == {"data", "masks"}
    for row, name in enumerate(read.train.source.names):
        expected = 0.25 if not name.startswith("blue") and int(name[-7:-4]) < 6 else 1
        assert read.train.masks(np.array([row])).mean() / 255 == expected, name


def test_masks_that_would_be_trained_on_as_images_are_told(images: Path) -> None:
    heard = Heard()
    image_sources(data_of(images)).read(heard)
    assert heard.warnings == []
    image_sources(data_of(images, masks=False)).read(heard)
    (warning,) = heard.warnings
    assert warning.startswith("12 of 36 images are masks of others, by their names (green/00")
    inspected = data_inspect.run(DataInspect(source=str(images)), Silent())
    assert inspected.facts["advice"]["masks"].startswith("12 of 36 images are masks")
    assert advice_on_masks(["a/gas-mask.png", "gas-mask/1.png", "b/gas.png"]) is None


def test_a_mask_of_no_image_and_no_masks_at_all_are_refused(images: Path, tmp_path: Path) -> None:
    write_squares(tmp_path / "bare", per_class=8)
    with pytest.raises(DataError, match="has no masks"):
        image_sources(data_of(tmp_path / "bare"))
    Image.new("L", (4, 4)).save(tmp_path / "bare/red/lost-mask.png")
    with pytest.raises(DataError, match=r"lost-mask\.png"):
        image_sources(data_of(tmp_path / "bare"))


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_the_loss_is_that_of_the_pixels_that_count(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    images, originals = (torch.rand(3, 3, 8, 8, generator=draw) for _ in range(2))
    masks = torch.zeros(3, 1, 8, 8)
    masks[..., :2] = 1
    found = masked_loss(name, images, originals, loss_weights(masks))
    torch.testing.assert_close(found, RECONSTRUCTION[name](images[..., :2], originals[..., :2]))
    torch.testing.assert_close(
        masked_loss(name, images, originals, loss_weights(torch.ones(3, 1, 8, 8))),
        RECONSTRUCTION[name](images, originals),
    )
    assert float(masked_loss(name, images, originals, loss_weights(0 * masks))) == 0


def test_denoising_is_measured_where_masks_show() -> None:
    objective, draw = Denoising(schedule("cosine", 100), "x0", "uniform"), torch.Generator().manual_seed(0)
    x0, given = torch.zeros(2, 4, 4, 4), {"noise": torch.zeros(2, 4, 4, 4), "t": torch.full((2,), 0.5)}
    wrong = torch.rand(2, 4, 4, 4, generator=draw)
    masks = torch.zeros(2, 1, 4, 4)
    masks[:, :, 1] = 1
    losses = objective.loss(lambda x, t, cond: wrong, x0, {**given, WEIGHTS: loss_weights(masks)}, {})
    torch.testing.assert_close(losses, wrong[:, :, 1].square().mean((1, 2)))


def test_shards_hold_the_masks_that_images_have(images: Path, tmp_path: Path) -> None:
    """Both sources give the same weights, mirrored with the images, and both train."""
    pipeline = Pipeline(tmp_path / "runs", images)
    data = data_of(images, flip=True).model_dump(mode="json", exclude_unset=True)
    pipeline.run("train-vqvae", data=data, model={"preset": "identity"})
    made = pipeline.run("encode").directory
    policy = Policy(torch.device("cpu"), torch.float32)
    shards = read_latents(open_run(made, LATENTS, "")).train
    source = open_run(pipeline.folder / "vqvae", AUTOENCODER, "")
    read = image_sources(data_of(images, flip=True)).read(Silent())
    network = load_autoencoder(source, policy).network
    pixels = latents_of_images(read, network, True, policy, shards.conditioning).train
    samples, positions = np.arange(len(shards)), np.arange(len(shards)) + 7
    of_shards, of_pixels = (weights_of(each, samples, positions, 3) for each in (shards, pixels))
    assert of_shards is not None and of_pixels is not None
    torch.testing.assert_close(of_shards, of_pixels)
    torch.testing.assert_close(of_shards.mean((1, 2, 3)), torch.ones(len(samples)))
    assert of_shards[..., 0].min() == 0, "mirrored: the right quarter counts"
    with tarfile.open(next(made.glob("shard-*.tar"))) as tar:
        member = tar.extractfile(next(name for name in tar.getnames() if name.endswith(".mask.npy")))
        assert member is not None and np.load(io.BytesIO(member.read())).dtype == np.uint8
    assert manifest(made)["facts"]["fields"]["mask.npy"]["shape"] == [SIDE, SIDE]
    short = {"train__images": 16, "train__validate_every": 16, "preview__every": 0}
    assert np.isfinite(manifest(pipeline.run("train-dit", **short).directory)["facts"]["validation_loss"])


def test_an_autoencoder_is_trained_with_masks_and_a_discriminator(images: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path / "runs", images)
    data = data_of(images).model_dump(mode="json", exclude_unset=True)
    loss = {"adversarial_weight": 0.1, "adversarial_start": 0}
    made = manifest(pipeline.run("train-vqvae", data=data, loss=loss, train__images=16).directory)
    assert made["inputs"]["masks"]["fingerprint"] and np.isfinite(made["facts"]["val_psnr"])
    latents = manifest(pipeline.run("encode").directory)["facts"]["fields"]
    assert latents["mask.npy"]["shape"] == [4, 4] and "flip.mask.npy" not in latents
