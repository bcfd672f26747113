"""However latents are read, training is the same to the bit, and damaged ones are not trained on."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file
from safetensors.torch import load_file

from ldm.core import files
from ldm.core.autoencoders import registry
from ldm.core.errors import DataError
from ldm.core.images.order import stream
from ldm.core.images.sets import image_sources
from ldm.core.latents.dataset import held_out
from ldm.core.latents.from_images import latents_of_images
from ldm.core.latents.index import INDEX
from ldm.core.latents.sets import read_latents
from ldm.core.latents.shards import load_shard
from ldm.core.progress import Silent
from ldm.core.runs.roles import LATENTS
from ldm.core.runs.run import MANIFEST, open_run
from ldm.core.system.precision import resolve
from tests.support.pipeline_run import Pipeline, manifest

READINGS = ("held", "mapped", "streamed")


def test_the_order_of_training_and_its_latents_are_the_same_however_they_are_read(trained: Pipeline) -> None:
    latents = open_run(trained.folder / "latents", LATENTS, "ldm encode")
    sets = [read_latents(latents, reading).train for reading in READINGS]  # type: ignore[arg-type]
    for start in range(0, 2 * len(sets[0]), 8):
        positions = np.arange(start, start + 8)
        samples = stream(3, start, start + 8, len(sets[0]))
        batches = [each.batch(samples, positions, 3) for each in sets]
        assert all(torch.equal(batch, batches[0]) for batch in batches[1:])


def test_images_that_are_encoded_when_asked_for_are_the_latents_of_the_shards(trained: Pipeline) -> None:
    written = read_latents(open_run(trained.folder / "latents", LATENTS, "ldm encode"))
    policy = resolve("cpu", "fp32")
    images = image_sources(trained.config("train-vqvae").data).read(Silent())
    network = registry.load(trained.folder / "vqvae" / "final")
    sets = latents_of_images(images, network, True, policy, written.conditioning)
    assert sets.conditioning == written.conditioning and sets.train.shape == written.train.shape
    for ours, theirs in ((sets.train, written.train), (sets.val, written.val)):
        assert len(ours) == len(theirs) and ours.fields.keys() == theirs.fields.keys()
        for start in range(0, 2 * len(ours), 8):
            positions = np.arange(start, start + 8)
            samples = stream(3, start, start + 8, len(ours))
            batches = [each.batch(samples, positions, 3) for each in (ours, theirs)]
            assert torch.allclose(*batches, atol=5e-3)
            assert torch.equal(*(each.cond(samples, positions)["labels"] for each in (ours, theirs)))
        ours_held, theirs_held = (list(held_out(each, 6)) for each in (ours, theirs))
        assert torch.equal(ours_held[0].noise, theirs_held[0].noise)
        assert torch.allclose(ours_held[0].x0, theirs_held[0].x0, atol=5e-3)


def test_training_ends_in_the_same_weights_however_latents_are_read(trained: Pipeline, tmp_path: Path) -> None:
    whole = load_file(trained.folder / "dit" / "final" / "model.safetensors")
    for reading in READINGS:
        copy = trained.copy(tmp_path / reading)
        shutil.rmtree(copy.folder / "dit")
        copy.run("train-dit", reading=reading, preview__every=0)
        found = load_file(copy.folder / "dit" / "final" / "model.safetensors")
        assert all(torch.equal(found[name], whole[name]) for name in whole), reading


@pytest.mark.parametrize("reading", ["auto", *READINGS])
def test_training_does_not_go_through_with_a_damaged_latent(reading: str, copied: Pipeline) -> None:
    shutil.rmtree(copied.folder / "dit")
    path = copied.folder / "latents" / "shard-000001.tar"
    shard, _ = load_shard(path, 16)
    place = int(shard.offsets["npy"][3])
    whole = path.read_bytes()
    path.write_bytes(whole[: place + 1] + bytes([whole[place + 1] ^ 8]) + whole[place + 2 :])
    os.utime(path, (0, 0))
    with pytest.raises(DataError, match=r"shard-000001\.tar is damaged"):
        copied.run("train-dit", reading=reading, preview__every=0, train__images=512)
    assert not (copied.folder / "dit" / "final").exists()


@pytest.mark.parametrize("reading", READINGS)
def test_a_shard_that_is_cut_short_or_gone_is_named_before_training(reading: str, copied: Pipeline) -> None:
    shutil.rmtree(copied.folder / "dit")
    path = copied.folder / "latents" / "val-000000.tar"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"val-000000\.tar is damaged"):
        copied.run("train-dit", reading=reading)
    path.unlink()
    with pytest.raises(DataError, match=r"val-000000\.tar is missing"):
        copied.run("train-dit", reading=reading)


def test_latents_without_checksums_are_compared_with_the_manifest_before_they_are_streamed(copied: Pipeline) -> None:
    """Such are those written by an ldm that knew no checksums."""
    folder = copied.folder / "latents"
    index = load_arrays(folder / INDEX)
    save_file({key: values for key, values in index.items() if "crc32" not in key}, folder / INDEX)
    document = manifest(folder)
    document["files"][INDEX] = {"bytes": (folder / INDEX).stat().st_size, "sha256": files.sha256_file(folder / INDEX)}
    del document["manifest_sha256"]
    files.write_json(folder / MANIFEST, {**document, "manifest_sha256": files.sha256_json(document)})
    latents = open_run(folder, LATENTS, "ldm encode")
    assert read_latents(latents, "streamed").train.array("npy", np.arange(4)).isfinite().all()
    path = folder / "shard-000002.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    with pytest.raises(DataError, match=r"shard-000002\.tar is damaged: its sha256 differs"):
        read_latents(latents, "streamed")
