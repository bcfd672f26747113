"""Networks without fixed positions: images of other sizes than those trained on, and training on at another size."""

import re
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ldm.core.errors import ConfigError
from ldm.core.progress import Silent
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from tests.support.pipeline_run import Heard, Pipeline, manifest, pngs

MMDIT = {"preset": "mmdit-xs/1", "width": 16, "depth": 2, "heads": 2, "text_width": 8}


def test_a_network_that_takes_any_size_draws_larger_images_and_others_refuse(copied: Pipeline) -> None:
    with pytest.raises(ConfigError, match=r"`image_size=24`: the network, dit, .* 16 pixels"):
        copied.run("sample", image_size=24)
    shutil.rmtree(copied.folder / "dit")
    copied.run("train-denoiser", model=MMDIT, train__images=32, preview__every=0)
    with pytest.raises(ConfigError, match="17` is not a multiple of 4"):
        copied.run("sample", image_size=17)
    larger = copied.run("sample", image_size=24, num=2, label="larger").directory
    alone = copied.run("sample", image_size=24, num=1, classes="blue", label="alone").directory
    assert Image.open(larger / "000000.png").size == (24, 24) and manifest(larger)["facts"]["image_size"] == 24
    assert pngs(alone)["000000.png"] == pngs(larger)["000000.png"]
    assert len(set(pngs(larger).values())) == 6
    usual = copied.run("sample", num=1, label="usual").directory
    same = copied.run("sample", num=1, image_size=16, label="same").directory
    assert pngs(usual) == pngs(same) and Image.open(usual / "000000.png").size == (16, 16)
    assert verify.run(Verify(path=copied.folder), Silent()).verdict == "is whole"


def test_a_classifier_guides_images_of_its_own_size_and_refuses_others(copied: Pipeline) -> None:
    shutil.rmtree(copied.folder / "dit")
    copied.run("train-denoiser", model=MMDIT, train__images=8, preview__every=0)
    copied.run("train-classifier", noisy=True, train__images=8)
    guided = {"classifier_scale": 1.0, "classes": "red", "num": 1}
    with pytest.raises(ConfigError, match=r"`image_size=24`: .*noisy-classifier knows latents of 4 x 4 alone"):
        copied.run("sample", image_size=24, **guided)
    same = copied.run("sample", image_size=16, label="same", **guided).directory
    assert pngs(same) == pngs(copied.run("sample", label="usual", **guided).directory)


@pytest.mark.slow
def test_training_goes_on_at_another_size_from_all_weights(copied: Pipeline) -> None:
    shutil.rmtree(copied.folder / "dit")
    copied.run("train-denoiser", model=MMDIT, train__images=32, preview__every=0)
    larger = Pipeline(copied.runs_dir, copied.images, "larger")
    larger.run("train-autoencoder", autoencoder=copied.folder / "vqvae/final", data__image_size=24)
    larger.run("encode")
    heard = Heard()
    larger.run("train-denoiser", heard, model=MMDIT, start_from=copied.folder, train__images=8, train__lr=1e-9)
    assert any(re.search(r"starting from (\d+) of \1 tensors", note) for note in heard.notes), heard.notes
    before, after = (load_file(run.folder / "denoiser/final/model.safetensors") for run in (copied, larger))
    assert all(torch.allclose(after[name], tensor, atol=1e-6) for name, tensor in before.items())
    assert Image.open(larger.run("sample", num=1).directory / "000000.png").size == (24, 24)
