"""The stages, one after the other, on real files at the smallest sizes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file

from ldm.core import files
from ldm.core.errors import ConfigError, DataError
from ldm.core.latents.sharded import ShardedLatents
from ldm.core.progress import Silent
from ldm.core.runs.roles import LATENTS
from ldm.core.runs.run import MANIFEST, open_run
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from tests.support.forgery import forget_owner
from tests.support.pipeline_run import COLOURS, Heard, Pipeline, manifest, pngs


def test_class_names_travel_from_the_folder_to_the_samples(trained: Pipeline) -> None:
    outcome = trained.run("sample", classes="green", num=2)
    entries = manifest(outcome.directory)["facts"]["images"]
    assert [(entry["class"], entry["label"]) for entry in entries] == [("green", 1), ("green", 1)]


def test_every_stage_says_that_it_is_complete_when_run_again(trained: Pipeline) -> None:
    for command in ("train-vqvae", "encode", "train-dit", "train-classifier"):
        before = (trained.folder / {"train-vqvae": "vqvae", "encode": "latents"}.get(command, "dit") / MANIFEST).stat()
        assert trained.run(command).already_complete, command
        after = (trained.folder / {"train-vqvae": "vqvae", "encode": "latents"}.get(command, "dit") / MANIFEST).stat()
        assert before.st_mtime_ns == after.st_mtime_ns


def test_a_complete_stage_decodes_no_image(trained: Pipeline) -> None:
    for command in ("train-vqvae", "encode", "train-classifier"):
        heard = Heard()
        assert trained.run(command, heard).already_complete
        assert not heard.works, command


def test_a_complete_training_does_not_load_its_autoencoder(trained: Pipeline, tmp_path: Path) -> None:
    copied = trained.copy(tmp_path)
    (copied.folder / "vqvae" / "final" / "model.safetensors").unlink()
    assert copied.run("train-dit").already_complete
    with pytest.raises(DataError, match=r"model\.safetensors"):
        copied.run("train-dit", replace=True)
    assert (copied.folder / "dit" / MANIFEST).is_file()


def test_latents_are_normalised_on_the_training_images(trained: Pipeline) -> None:
    statistics = manifest(trained.folder / "latents")["facts"]["statistics"]
    assert np.abs(statistics["mean"]).max() < 0.15
    assert np.abs(np.array(statistics["std"]) - 1).max() < 0.15


def test_shards_open_with_plain_webdataset_as_the_readme_shows(trained: Pipeline) -> None:
    facts = manifest(trained.folder / "latents")["facts"]
    ours = ShardedLatents(trained.folder / "latents", "train", facts["shards"]["train"], tuple(facts["latent_shape"]))
    shard = str(trained.folder / "latents" / "shard-000000.tar")
    dataset = webdataset.WebDataset(shard, shardshuffle=False).decode().to_tuple("npy", "cls", "json")
    for index, (latent, label, source) in enumerate(dataset):
        assert latent.dtype == np.float16
        assert torch.equal(torch.from_numpy(latent).float(), ours.array("npy", np.array([index]))[0].float())
        assert label == ours.labels[index] == source["label"]
        assert source["name"].startswith(list(COLOURS)[label])
    assert index == 15


def test_the_flipped_latent_is_that_of_the_flipped_image(trained: Pipeline) -> None:
    from ldm.core.autoencoders import registry

    facts = manifest(trained.folder / "latents")["facts"]
    latents = ShardedLatents(
        trained.folder / "latents", "train", facts["shards"]["train"], tuple(facts["latent_shape"])
    )
    config = trained.config("train-vqvae")
    from ldm.core.images.decode import as_tensor
    from ldm.core.images.sets import image_sources

    pixels = as_tensor(image_sources(config.data).read(Silent()).train.batch(np.arange(8))).flip(-1)
    with torch.no_grad():
        expected = registry.load(trained.folder / "vqvae" / "final").encode(pixels)
    found = latents.array("npy", np.arange(8), np.ones(8, dtype=bool)).float()
    assert torch.allclose(found, expected, atol=5e-3)


def test_an_interrupted_encode_goes_on_to_the_same_bytes(copied: Pipeline) -> None:
    latents = copied.folder / "latents"
    before = {path.name: path.read_bytes() for path in latents.glob("*.tar")}
    (latents / MANIFEST).unlink()
    (latents / "shard-000001.tar").unlink()
    (latents / "index.safetensors").unlink()
    copied.run("encode")
    assert {path.name: path.read_bytes() for path in latents.glob("*.tar")} == before


def test_a_resumed_training_ends_in_the_weights_of_an_uninterrupted_one(copied: Pipeline, trained: Pipeline) -> None:
    dit = copied.folder / "dit"
    (dit / MANIFEST).unlink()
    shutil.rmtree(dit / "final")
    shutil.rmtree(dit / "checkpoints" / "0000000064")
    copied.run("train-dit")
    resumed, whole = (
        load_file(root / "dit" / "final" / "model.safetensors") for root in (copied.folder, trained.folder)
    )
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_another_setting_is_refused_with_the_differing_key_and_replace_starts_over(copied: Pipeline) -> None:
    with pytest.raises(ConfigError, match=r": train\.lr: 0\.001 → 0\.002"):
        copied.run("train-dit", train__lr=2e-3)
    outcome = copied.run("train-dit", train__lr=2e-3, replace=True)
    assert manifest(outcome.directory)["config"]["train"]["lr"] == 2e-3


def test_settings_of_the_machine_may_differ(trained: Pipeline) -> None:
    assert trained.run("train-dit", train__keep=5).already_complete
    assert trained.run("train-dit", train__accumulate=2).already_complete


@pytest.mark.parametrize("recorded", [False, True], ids=["now", "by an earlier version"])
def test_a_training_goes_on_in_more_passes(copied: Pipeline, recorded: bool) -> None:
    """Earlier versions counted `accumulate` among the settings that make a run another run."""
    folder = copied.folder / "dit"
    (folder / "manifest.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "0000000064")
    if recorded:
        known = files.read_json(folder / "identity.json")
        known["config"]["train"]["accumulate"] = 1
        del known["bound"]
        forget_owner(folder / "checkpoints" / "0000000032")
        files.write_json(folder / "identity.json", known)
    heard = Heard()
    copied.run("train-dit", heard, train__accumulate=4)
    assert heard.notes[-1].startswith("resuming after 32 images")
    assert "accumulate" not in manifest(folder)["config"]["train"]
    assert verify.run(Verify(path=folder), Silent()).verdict == "is whole"


def test_latents_of_a_retrained_autoencoder_are_refused_with_the_command_that_mends_it(copied: Pipeline) -> None:
    copied.run("train-vqvae", seed=1, replace=True)
    with pytest.raises(DataError, match=r"latents was made with another autoencoder.*ldm encode .* --replace"):
        copied.run("train-dit", replace=True)
    with pytest.raises(DataError, match="dit was made with another autoencoder"):
        copied.run("sample")


def test_a_damaged_shard_is_named_before_training(copied: Pipeline) -> None:
    shard = copied.folder / "latents" / "shard-000000.tar"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"shard-000000\.tar is damaged"):
        copied.run("train-dit", replace=True, seed=3)


def test_the_wrong_order_is_refused_with_the_command_to_run_first(tmp_path: Path, images: Path) -> None:
    fresh = Pipeline(tmp_path, images)
    for command, missing in (("encode", "train-vqvae"), ("train-dit", "encode"), ("sample", "train-dit")):
        with pytest.raises(DataError, match=f"make it: ldm {missing}"):
            fresh.run(command)


def test_the_image_of_a_seed_does_not_depend_on_its_batch(trained: Pipeline) -> None:
    many = trained.run("sample", classes="red", num=9, seed=10, batch_size=64, label="many").directory
    few = trained.run("sample", classes="red", num=9, seed=10, batch_size=2, label="few").directory
    alone = trained.run("sample", classes="red", num=1, seed=17, label="alone").directory
    assert pngs(many) == pngs(few)
    assert pngs(many)["000017.png"] == pngs(alone)["000017.png"]


def test_interrupted_sampling_goes_on_to_the_same_bytes(copied: Pipeline) -> None:
    folder = copied.run("sample", num=3, label="again").directory
    before = pngs(folder)
    (folder / MANIFEST).unlink()
    (folder / "000004.png").unlink()
    copied.run("sample", num=3, label="again")
    assert pngs(folder) == before


@pytest.mark.parametrize(
    "settings",
    [
        {"sampler": "ddpm"},
        {"sampler": "ddim", "eta": 0.5},
        {"sampler": "heun"},
        {"sampler": "dpmpp-2m", "spacing": "linspace"},
        {"sampler": "euler", "cfg": 1},
        {"cfg": 0},
        {"cfg": 2, "cfg_interval": (0.2, 0.8), "cfg_rescale": 0.7},
        {"steps": 1},
        {"steps": 7, "spacing": "leading"},
    ],
    ids=str,
)
def test_every_way_of_sampling_draws_finite_pictures(trained: Pipeline, settings: dict) -> None:
    folder = trained.run("sample", **{"num": 1, "steps": 3, **settings}).directory
    assert len(pngs(folder)) == 3
    assert np.array(Image.open(folder / "grid.png")).std() > 0


def test_the_facts_of_samples_name_each_file_with_its_seed_also_where_they_are_complete(trained: Pipeline) -> None:
    for complete in (False, True):
        outcome = trained.run("sample", classes="red,blue", num=2, seed=5, label="facts")
        assert outcome.already_complete is complete
        listed = [(image["class"], image["seed"]) for image in outcome.facts["images"]]
        assert listed == [("red", 5), ("red", 6), ("blue", 7), ("blue", 8)]
        assert all((outcome.directory / image["file"]).is_file() for image in outcome.facts["images"])


def test_progressive_writes_the_path_as_a_strip_and_an_animation(trained: Pipeline) -> None:
    folder = trained.run("sample", classes="0", num=1, steps=4, progressive=True).directory
    assert 2 <= Image.open(folder / "progressive.webp").n_frames <= 4  # equal frames are merged
    strip = np.array(Image.open(folder / "progressive.png"))
    assert strip.shape[1] > 4 * 64
    several = trained.run("sample", classes="all", num=3, steps=4, progressive=True, label="several").directory
    assert np.array(Image.open(several / "progressive.png")).shape[0] > 2.5 * strip.shape[0], "a path of each class"


def test_guidance_without_a_null_class_is_refused(copied: Pipeline) -> None:
    copied.run("train-dit", label_dropout=0, replace=True)
    with pytest.raises(ConfigError, match=r"cfg=3` needs a null class.*use `cfg=1`"):
        copied.run("sample", cfg=3)
    plain = copied.run("sample", cfg=1).directory
    assert pngs(copied.run("sample").directory) == pngs(plain)


def test_settings_that_belong_to_another_sampler_are_refused(trained: Pipeline) -> None:
    with pytest.raises(ConfigError, match=r"eta=0\.5` belongs to the DDIM sampler, not euler"):
        trained.run("sample", sampler="euler", eta=0.5)
    with pytest.raises(ConfigError, match="variance=beta` belongs to the DDPM sampler, not ddim"):
        trained.run("sample", variance="beta")


def test_an_interval_that_is_none_is_refused_by_its_flag(trained: Pipeline) -> None:
    for interval in ((0.8, 0.2), (0.5, 0.5), (-0.1, 0.5)):
        with pytest.raises(ValidationError, match="cfg_interval="):
            trained.config("sample", cfg_interval=interval)


def test_more_steps_than_the_schedule_has_are_refused(trained: Pipeline) -> None:
    with pytest.raises(ConfigError, match="steps=1001` is outside 1 … 1000"):
        trained.run("sample", steps=1001)


def test_a_kl_autoencoder_of_diffusers_serves_every_later_stage(tmp_path: Path, images: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, latent_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    vae.save_pretrained(tmp_path / "vae")
    pipeline = Pipeline(tmp_path / "runs", images)
    pipeline.run("train-vqvae", autoencoder=tmp_path / "vae")
    pipeline.through("encode", "train-dit")
    latents = open_run(pipeline.folder / "latents", LATENTS, "ldm encode")
    latent_set = ShardedLatents(
        latents.path, "train", latents.metadata["shards"]["train"], tuple(latents.metadata["latent_shape"])
    )
    assert float(latent_set.array("std.npy", np.arange(4)).min()) > 0
    assert len(pngs(pipeline.run("sample", num=1).directory)) == 3

    assert pipeline.run("train-vqvae", autoencoder=tmp_path / "vae").already_complete
    vae.decoder.conv_out.bias.data += 0.1
    vae.save_pretrained(tmp_path / "vae")
    with pytest.raises(ConfigError, match="autoencoder: other contents"):
        pipeline.run("train-vqvae", autoencoder=tmp_path / "vae")
    with pytest.raises(ConfigError, match="image_size=17` is not a multiple of 2"):
        pipeline.run("train-vqvae", autoencoder=tmp_path / "vae", data__image_size=17, replace=True)


def test_the_first_and_last_reconstructions_are_pictures_of_the_same_images(trained: Pipeline) -> None:
    pictures = sorted((trained.folder / "vqvae" / "reconstructions").glob("*.png"))
    assert [path.stem for path in pictures] == ["0000000000", "0000000064"]
    first, last = (np.array(Image.open(path)) for path in pictures)
    upper = slice(0, first.shape[0] // 2 - 4)
    assert np.array_equal(first[upper], last[upper])
    assert not np.array_equal(first, last)
