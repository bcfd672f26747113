"""The small classifier: shapes, saving, what is refused, its augmentation, and that it learns."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm.core.errors import DataError
from ldm.core.features.classifier import (
    Classifier,
    ClassifierConfig,
    classification_loss,
    config_for,
    load,
    random_offsets,
    save,
    shift,
)


def tiny(num_classes: int = 2, image_size: int = 16) -> Classifier:
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(num_classes=num_classes, image_size=image_size, channels=(8, 16)))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("size", "dim"), [(28, 128), (32, 128), (64, 256), (128, 256)])
def test_network_fits_every_image_size_with_128_or_256_features(size: int, dim: int) -> None:
    network = Classifier(config_for(7, size))
    images = draw(2, 3, size, size)
    assert network.features(images).shape == (2, dim)
    assert network(images).shape == (2, 7)
    assert network.dim == dim


def test_logits_are_the_head_of_the_features_and_no_image_depends_on_its_batch() -> None:
    network = tiny().eval()
    images = draw(3, 3, 16, 16)
    logits = network(images)
    torch.testing.assert_close(logits, network.head(network.features(images)))
    torch.testing.assert_close(logits, torch.cat([network(images[i : i + 1]) for i in range(3)]))


def test_shift_moves_each_image_down_and_right_and_repeats_the_border() -> None:
    images = torch.arange(24.0).reshape(2, 1, 3, 4)
    moved = shift(images, torch.tensor([[1, 0], [0, -2]]))
    assert moved[0, 0].tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert moved[1, 0].tolist() == [[14, 15, 15, 15], [18, 19, 19, 19], [22, 23, 23, 23]]


def test_shift_moves_all_channels_alike_and_by_zero_nothing() -> None:
    images = draw(4, 3, 6, 5)
    assert torch.equal(shift(images, torch.zeros(4, 2, dtype=torch.int64)), images)
    offsets = random_offsets(4, 2, torch.Generator().manual_seed(1))
    whole = shift(images, offsets)
    assert torch.equal(whole, torch.cat([shift(images[:, c : c + 1], offsets) for c in range(3)], 1))


def test_offsets_are_the_generators_and_reach_both_ends() -> None:
    first, again = (random_offsets(500, 2, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert set(first.flatten().tolist()) == {-2, -1, 0, 1, 2}


def test_loss_of_an_indifferent_classifier_is_log_of_the_number_of_classes() -> None:
    network = tiny(num_classes=5)
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.zeros_(network.head.bias)
    loss = classification_loss(
        network, draw(4, 3, 16, 16), torch.tensor([0, 1, 2, 4]), random_offsets(4, 1, torch.Generator())
    )
    assert loss.item() == pytest.approx(torch.tensor(5.0).log().item())


def test_it_learns_where_a_bright_square_is() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (128,), generator=generator)
    images = torch.full((128, 3, 16, 16), -1.0)
    images[labels == 0, :, 3:7, 3:7] = 1
    images[labels == 1, :, 4:8, 3:5] = 1
    network = tiny()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(30):
        loss = classification_loss(network, images, labels, random_offsets(128, 3, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = shift(images, random_offsets(128, 3, generator))
    assert (network.eval()(moved).argmax(1) == labels).double().mean() > 0.98


def test_saved_classifier_comes_back_frozen_with_its_names(tmp_path: Path) -> None:
    network = tiny().eval()
    save(network, tmp_path, ["cat", "dög"], {"accuracy": 0.5})
    loaded = load(tmp_path)
    images = draw(2, 3, 16, 16)
    assert torch.equal(loaded.network(images), network(images))
    assert loaded.class_names == ("cat", "dög")
    assert loaded.extra == {"accuracy": 0.5}
    assert loaded.network.config == network.config
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json does not exist.*a whole classifier"):
        load(tmp_path)
    save(tiny(), tmp_path, ["a", "b"])
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 4
    weights.write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors is damaged"):
        load(tmp_path)
    weights.write_bytes(content[:100])
    with pytest.raises(DataError, match=r"model\.safetensors is not a readable safetensors file"):
        load(tmp_path)
    weights.unlink()
    with pytest.raises(DataError, match=r"model\.safetensors does not exist"):
        load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"config": {}},
        {"config": {"num_classes": 2, "image_size": 16, "channels": [8, 16], "colour": 1}},
        {"config": {"num_classes": 2, "image_size": 16, "channels": [8, -16]}},
        {"config": {"num_classes": 2, "image_size": 16, "channels": [8, 9]}},
        {"config": {"num_classes": 2, "image_size": "16", "channels": [8, 16]}},
        {"class_names": ["a", "b", "c"]},
        {"class_names": None},
        {"kind": "vqvae"},
    ],
)
def test_a_damaged_description_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    save(tiny(), tmp_path, ["a", "b"])
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=r"config\.json"):
        load(tmp_path)


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    save(tiny(), tmp_path, ["a", "b"])
    path = tmp_path / "config.json"
    described = json.loads(path.read_text())
    described["config"]["channels"] = [8, 24]
    path.write_text(json.dumps(described))
    with pytest.raises(DataError, match="does not fit the network"):
        load(tmp_path)
