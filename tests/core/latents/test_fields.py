"""Shards hold any named fields, and give them back by position, whatever their form."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import webdataset
from safetensors.numpy import load_file
from torch.nn.functional import adaptive_avg_pool2d

from ldm.core.autoencoders.codec import Autoencoder, Posterior
from ldm.core.autoencoders.vq import VQVAE
from ldm.core.autoencoders.vq_config import VQVAEConfig
from ldm.core.conditioning.captions import Take
from ldm.core.conditioning.labels import LabelConditioning
from ldm.core.diffusion.conditions import Cond
from ldm.core.errors import DataError
from ldm.core.latents.encoding import codec_fields, token_maps
from ldm.core.latents.fields import Field, fields_of
from ldm.core.latents.index import INDEX, check_index, write_index
from ldm.core.latents.sharded import Reading, ShardedLatents
from ldm.core.latents.shards import LatentSample, load_shard, write_shard
from ldm.core.runs import schemas
from ldm.core.system.precision import resolve

READINGS: Sequence[Reading] = get_args(Reading)
SHAPE = (4, 2, 2)
NAMES = {"train": ["shard-000000.tar", "shard-000001.tar"], "val": ["val-000000.tar"]}
FORMS = {
    "npy": Field("float16", SHAPE),
    "flip.npy": Field("float16", SHAPE),
    "tokens.npy": Field("uint16", (21,)),
    "flip.tokens.npy": Field("uint16", (21,)),
    "caption_tokens.npy": Field("uint16", (None,)),
    "embedding.npy": Field("float16", (None, 8)),
    "features.npy": Field("float16", (3, 5)),
    "txt": Field("text"),
    "captions.json": Field("text"),
    "cls": Field("int64"),
}


def sample(key: int, flips: bool = True, label: int | None = 0) -> LatentSample:
    draws = np.random.default_rng(key)
    length = key % 5
    arrays = {
        "npy": draws.standard_normal(SHAPE).astype(np.float16),
        "flip.npy": draws.standard_normal(SHAPE).astype(np.float16),
        "tokens.npy": draws.integers(0, 65536, 21).astype(np.uint16),
        "flip.tokens.npy": draws.integers(0, 65536, 21).astype(np.uint16),
        "caption_tokens.npy": draws.integers(0, 49408, length).astype(np.uint16),
        "embedding.npy": draws.standard_normal((length, 8)).astype(np.float16),
        "features.npy": draws.standard_normal((3, 5)).astype(np.float16),
    }
    kept = {name: array for name, array in arrays.items() if flips or not name.startswith("flip.")}
    texts = {"txt": f"a picture of {key} 🐟\n" * length, "captions.json": f'["{key}"]'}
    return LatentSample(kept, label if label is None else key % 3, f"{key}.png", texts)


def write(folder: Path, label: int | None = 0) -> dict[str, list[LatentSample]]:
    samples = {
        "train": [sample(key, label=label) for key in range(8)],
        "val": [sample(key, flips=False, label=label) for key in range(20, 23)],
    }
    first = write_shard(folder / NAMES["train"][0], 0, samples["train"][:5])
    second = write_shard(folder / NAMES["train"][1], 5, samples["train"][5:])
    held_out = write_shard(folder / NAMES["val"][0], 0, samples["val"])
    fields = write_index(folder, {"train": [first, second], "val": [held_out]})
    assert fields == {name: form for name, form in FORMS.items() if label is not None or name != "cls"}
    return samples


def opened(folder: Path, reading: Reading = "mapped", split: str = "train", **options) -> ShardedLatents:
    return ShardedLatents(folder, split, NAMES[split], SHAPE, reading, fields=FORMS, **options)


@pytest.mark.parametrize("reading", READINGS)
def test_every_field_is_read_at_random_as_it_was_written(tmp_path: Path, reading: Reading) -> None:
    written, latents = write(tmp_path)["train"], opened(tmp_path, reading)
    assert latents.fields == FORMS
    rows, flip = np.array([7, 0, 3, 3, 5]), np.array([True, False, True, False, True])
    for name in ("npy", "tokens.npy", "features.npy"):
        plain = np.stack([written[row].arrays[name] for row in rows])
        assert np.array_equal(latents.array(name, rows).numpy(), plain)
    names = ["flip.tokens.npy" if mirrored else "tokens.npy" for mirrored in flip]
    tokens = [written[row].arrays[name] for row, name in zip(rows, names, strict=True)]
    found = latents.array("tokens.npy", rows, flip)
    assert found.dtype == torch.uint16 and np.array_equal(found.numpy(), np.stack(tokens))
    assert latents.texts("txt", rows) == [written[row].texts["txt"] for row in rows]
    assert latents.texts("captions.json", rows) == [written[row].texts["captions.json"] for row in rows]
    for name in ("caption_tokens.npy", "embedding.npy", "features.npy"):
        for row, value in zip(rows, latents.arrays(name, rows), strict=True):
            assert value.dtype == written[row].arrays[name].dtype and np.array_equal(value, written[row].arrays[name])


@dataclass(frozen=True)
class Summed(LabelConditioning):
    """Labels, the sum of each sample's features, and its first caption token, or where it is in the stream."""

    stored = ("features.npy", "caption_tokens.npy")

    def read(self, take: Take, positions: np.ndarray, seed: int) -> Cond:
        tokens = [
            int(each[0]) if len(each) else -position
            for each, position in zip(take(self.stored[1]), positions, strict=True)
        ]
        return {"sum": torch.tensor([each.sum() for each in take(self.stored[0])]), "token": torch.tensor(tokens)}


def test_a_conditioning_reads_its_own_fields(tmp_path: Path) -> None:
    written = write(tmp_path)["train"]
    latents, rows = opened(tmp_path, conditioning=Summed(("a", "b", "c"))), np.array([1, 5])
    cond = latents.cond(rows, np.array([10, 11]))
    assert cond["labels"].tolist() == [1, 2] and "labels" not in opened(tmp_path).cond(rows, rows)
    assert cond["token"].tolist() == [int(written[1].arrays["caption_tokens.npy"][0]), -11]
    assert cond["sum"].tolist() == [float(written[row].arrays["features.npy"].sum()) for row in rows]


def test_samples_without_labels_have_no_condition(tmp_path: Path) -> None:
    write(tmp_path, label=None)
    assert not any(key.endswith("label") for key in load_file(tmp_path / INDEX))
    fields = {name: form for name, form in FORMS.items() if name != "cls"}
    latents = ShardedLatents(tmp_path, "train", NAMES["train"], SHAPE, fields=fields)
    assert latents.labels is None and len(latents) == 8 and "cls" not in latents.fields
    assert latents.cond(np.arange(3), np.arange(3)) == {}
    assert check_index(tmp_path, NAMES, fields)["val"].tolist() == [-1, -1, -1]
    for stated in (None, FORMS):  # Folders of before fields were listed are all labelled.
        with pytest.raises(DataError, match="does not fit its shards"):
            ShardedLatents(tmp_path, "train", NAMES["train"], SHAPE, fields=stated)


def test_plain_webdataset_opens_every_field(tmp_path: Path) -> None:
    written = write(tmp_path)["train"][:5]
    found = list(webdataset.WebDataset(str(tmp_path / NAMES["train"][0]), shardshuffle=False).decode())
    for ours, theirs in zip(written, found, strict=True):
        assert all(np.array_equal(theirs[name], array) for name, array in ours.arrays.items())
        assert theirs["txt"] == ours.texts["txt"] and theirs["captions.json"] == [theirs["json"]["name"][:-4]]


def test_a_shard_with_any_fields_is_read_whole_again(tmp_path: Path) -> None:
    written = write(tmp_path)["train"]
    shard, samples = load_shard(tmp_path / NAMES["train"][1], 5)
    assert shard.forms.keys() == FORMS.keys() - {"cls"}
    for ours, theirs in zip(written[5:], samples, strict=True):
        assert (ours.label, ours.name, ours.texts) == (theirs.label, theirs.name, theirs.texts)
        assert all(np.array_equal(array, theirs.arrays[name]) for name, array in ours.arrays.items())
    check_index(tmp_path, NAMES, FORMS)
    with pytest.raises(DataError, match="holds other fields than its manifest says"):
        check_index(tmp_path, NAMES, {**FORMS, "tokens.npy": Field("uint16", (22,))})


@pytest.mark.parametrize("name", ["tokens.npy", "embedding.npy", "txt"])
def test_a_damaged_field_is_named_when_it_is_read(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    path = tmp_path / NAMES["train"][1]
    place = int(load_shard(path, 5)[0].offsets[name][2])
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    latents = opened(tmp_path, "streamed")
    read = {"tokens.npy": latents.array, "embedding.npy": latents.arrays, "txt": latents.texts}[name]
    read(name, np.arange(7))
    with pytest.raises(DataError, match=rf"shard-000001\.tar is damaged at byte {place}"):
        read(name, np.arange(8))


def test_samples_whose_fields_do_not_go_together_are_refused(tmp_path: Path) -> None:
    one, other = sample(0), sample(1)
    wide = replace(other, arrays={**other.arrays, "features.npy": np.zeros((3, 6), np.float16)})
    with pytest.raises(ValueError, match=r"float16 of shape \(3, 6\) beside float16 of shape \(3, 5\)"):
        write_shard(tmp_path / "a.tar", 0, [one, wide])
    shards = [write_shard(tmp_path / f"{key}.tar", key, [each]) for key, each in enumerate((one, wide))]
    with pytest.raises(DataError, match="fields of different forms"):
        write_index(tmp_path, {"train": shards})
    less = replace(other, texts={})
    shards = [write_shard(tmp_path / f"{key}.tar", key, [each]) for key, each in enumerate((one, less))]
    with pytest.raises(DataError, match=r"1\.tar holds other fields than 0\.tar"):
        write_index(tmp_path, {"train": shards})


def test_a_manifest_lists_fields_as_they_are_read_and_nothing_else() -> None:
    listed = {name: form.describe("ab12") for name, form in FORMS.items()}
    assert fields_of({"fields": listed}) == FORMS and fields_of({}) is None
    latents = {
        "class_names": ["a"],
        "class_counts": [1],
        "latent_shape": list(SHAPE),
        "image_size": 16,
        "shards": NAMES,
        "samples": {"train": 8, "val": 3},
    }
    assert schemas.first_wrong(schemas.Latents, latents) is None
    assert schemas.first_wrong(schemas.Latents, {**latents, "fields": listed}) is None
    for wrong in (
        {"npy": {"dtype": "object", "shape": list(SHAPE)}},
        {"npy": {"dtype": "float16", "shape": [4, 2]}},
        {"cls": {"dtype": "int64", "shape": []}},
        {**listed, "a.npy": {"dtype": "float16", "shape": [2, None]}},
        {**listed, "a.npy": {"dtype": "float16", "shape": [1 << 40]}},
        None,
    ):
        assert schemas.first_wrong(schemas.Latents, {**latents, "fields": wrong}) is not None


class Pyramid:
    """A codec of two maps of tokens: the mean of each image, and of its quarters."""

    kind, in_channels, latent_channels, downsampling, latent_sides, num_tokens = "pyramid", 3, 3, 4, None, 256

    def encode(self, images: torch.Tensor) -> Posterior:
        mean = adaptive_avg_pool2d(images, images.shape[-1] // 4)
        return Posterior(mean, torch.full_like(mean, 0.5))

    def tokens(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [((adaptive_avg_pool2d(images, side).mean(1) + 1) * 127).long() for side in (1, 2)]

    def from_tokens(self, tokens: Sequence[torch.Tensor]) -> torch.Tensor:
        raise NotImplementedError

    decode = rotate = describe = state_dict = from_tokens


def test_encode_writes_what_the_codec_offers() -> None:
    network, images = Autoencoder(Pyramid()), torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
    policy = resolve("cpu", "fp32")
    assert token_maps(network, (8, 8), policy) == [[1, 1], [2, 2]]
    fields = codec_fields(network, images, tokens=True)
    assert {name: (values.dtype, values.shape[1:]) for name, values in fields.items()} == {
        "npy": (torch.float16, (3, 2, 2)),
        "std.npy": (torch.float16, (3, 2, 2)),
        "tokens.npy": (torch.int32, (5,)),
    }
    first, second = network.codec.tokens(images)
    assert fields["tokens.npy"][1].tolist() == [first[1].item(), *second[1].flatten().tolist()]
    vqvae = Autoencoder(VQVAE(VQVAEConfig(channels=8, channel_multipliers=(1, 2), num_res_blocks=1, codebook_size=8)))
    assert token_maps(vqvae, (32, 32), policy) == [], "one map says no more than the latents"
