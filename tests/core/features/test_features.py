"""Feature extractors: resizing, refusals, and the published networks on real pictures where at hand."""

import io
import itertools
import json
import sys
import tarfile
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm.core.errors import ConfigError, DataError
from ldm.core.features import classifier, mobilenet
from ldm.core.features.extractor import Extractor, extract, resize
from ldm.core.features.registry import EXTRACTORS, open_extractor
from ldm.core.features.settings import ExtractorName
from tests.support.imagenet_weights import write_turned_mobilenet


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def read_members(tar: Path, wanted: str, stride: int, count: int) -> list[tuple[str, Image.Image]]:
    """Return every `stride`-th image of a tar whose name holds `wanted`, up to a count: (class folder, image)."""
    images: list[tuple[str, Image.Image]] = []
    with tarfile.open(tar) as archive:
        names = (m for m in archive if wanted in m.name and m.name.endswith((".png", ".JPEG")))
        for member in itertools.islice(names, 0, stride * count, stride):
            file = archive.extractfile(member)
            assert file is not None
            images.append((member.name.split("/")[-2], Image.open(io.BytesIO(file.read())).convert("RGB")))
    return images


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def test_resizing_keeps_constants_and_averages_when_it_shrinks() -> None:
    constant = torch.full((1, 3, 9, 13), 0.25)
    torch.testing.assert_close(resize(constant, 5), torch.full((1, 3, 5, 5), 0.25))
    checkered = torch.ones(1, 1, 32, 32)
    checkered[:, :, ::2, ::2] = checkered[:, :, 1::2, 1::2] = -1
    assert resize(checkered, 8).abs().max() < 0.05


def test_our_classifier_is_an_extractor_named_by_its_hash(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = classifier.Classifier(classifier.ClassifierConfig(num_classes=3, image_size=16, channels=(8, 16))).eval()
    classifier.save(network, tmp_path, ["a", "b", "c"])
    extractor = open_extractor("classifier", tmp_path)
    images = draw(5, 3, 16, 16)
    torch.testing.assert_close(extractor.logits(images), network(images).detach())
    torch.testing.assert_close(extractor.features(images), network.features(images).detach())
    assert (extractor.name, extractor.dim, extractor.class_names) == ("classifier", 16, ("a", "b", "c"))
    assert extractor.weights_sha256 == classifier.sha256_file(tmp_path / "model.safetensors")
    assert extractor.resize == "bilinear antialias 16"
    seen = extract(extractor, images.split(2))
    assert len(seen) == 5
    torch.testing.assert_close(seen.features, extractor.features(images))
    assert extractor.features(draw(1, 3, 40, 40)).shape == (1, 16)


def test_a_classifier_of_latents_is_no_extractor_of_images(tmp_path: Path) -> None:
    config = classifier.ClassifierConfig(num_classes=2, image_size=16, in_channels=4, channels=(8, 16))
    classifier.save(classifier.Classifier(config), tmp_path, ["a", "b"])
    with pytest.raises(DataError, match="4-channel"):
        open_extractor("classifier", tmp_path)


def test_no_images_and_images_with_nan_are_refused() -> None:
    identity = Extractor("toy", 3, "", "", None, torch.device("cpu"), lambda x: (x.mean((2, 3)), x.mean((2, 3))))
    with pytest.raises(DataError, match="no images"):
        extract(identity, [])
    images = draw(4, 3, 2, 2)
    images[2, 0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="image 2 "):
        extract(identity, images.split(3))


def test_unknown_kinds_and_missing_weights_are_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'vgg'.*classifier, mobilenet-v2, inception, lenet"):
        open_extractor("vgg", tmp_path)
    with pytest.raises(ConfigError, match="needs its weights"):
        open_extractor("classifier")
    with pytest.raises(ConfigError, match="cannot be downloaded"):
        open_extractor("lenet", tmp_path, download=True)
    with pytest.raises(DataError, match=r"lenet.*\.pth does not exist.*csinva"):
        open_extractor("lenet", tmp_path)
    with pytest.raises(DataError, match=r"mobilenet_v2-b0353104\.pth does not exist.*download\.pytorch\.org"):
        open_extractor("mobilenet-v2", tmp_path)


def test_a_pickle_that_is_not_the_published_file_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "lenet.pth"
    path.write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(DataError, match="damaged or another file"):
        open_extractor("lenet", path)


def test_inception_says_what_to_install_or_which_file_to_give(tmp_path: Path) -> None:
    try:
        import torch_fidelity.feature_extractor_inceptionv3  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "torch_fidelity":
            pytest.skip(f"torch-fidelity is here without {error.name}")
        with pytest.raises(ConfigError, match="pip install torch-fidelity"):
            open_extractor("inception", tmp_path / "weights.pth")
    else:
        with pytest.raises(ConfigError, match="needs its weights"):
            open_extractor("inception")
        with pytest.raises(DataError, match=r"weights\.pth does not exist"):
            open_extractor("inception", tmp_path / "weights.pth")


def test_a_torchvision_that_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch_fidelity.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="does not fit this torch: operator torchvision::nms") as caught:
        open_extractor("inception", tmp_path / "weights.pth")
    assert "install the torchvision" in str(caught.value.remedy)


def test_lenet_reads_mnist_test_digits(shared: Path) -> None:
    digits = read_members(shared / "data" / "mnist.tar", "/test/", stride=10, count=1000)
    extractor = open_extractor("lenet", shared / "weights" / "mnist-lenet")
    images = torch.stack([to_tensor(image) for _, image in digits])
    labels = torch.tensor([int(folder) for folder, _ in digits])
    seen = extract(extractor, images.split(500))
    assert seen.features.shape == (1000, 84)
    assert (seen.logits.argmax(1) == labels).double().mean() >= 0.985


def test_mobilenet_reads_imagenette_photos(shared: Path, tmp_path: Path) -> None:
    photos = read_members(shared / "data" / "imagenette-224.tar", "/val/", stride=60, count=20)
    extractor = open_extractor("mobilenet-v2", write_turned_mobilenet(shared, tmp_path / "turned.safetensors"))
    with tarfile.open(shared / "data" / "imagenette-224.tar") as archive:
        file = archive.extractfile("imagenette2-224/classes.json")
        assert file is not None
        classes = json.load(file)
    images = torch.stack([to_tensor(image.resize((224, 224))) for _, image in photos])
    labels = torch.tensor([classes[folder][0] for folder, _ in photos])
    features, logits = extractor.both(images.flip(2, 3))
    assert features.shape == (20, extractor.dim)
    assert (logits.argmax(1) == labels).double().mean() >= 0.6
    ten = torch.tensor([index for index, _ in classes.values()])
    assert (ten[logits[:, ten].argmax(1)] == labels).double().mean() >= 0.95
    assert extractor.class_names is not None
    assert all(name in extractor.class_names[index] for index, name in classes.values())


def test_mobilenet_has_the_tensors_of_torchvision_s_file_and_needs_no_counts_of_batches(tmp_path: Path) -> None:
    """The names and sizes that torchvision documents: 3,504,872 parameters, and what the norms remember."""
    network = mobilenet.MobileNetV2()
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_504_872
    state = network.state_dict()
    assert {"features.0.0.weight", "features.1.conv.1.weight", "features.2.conv.1.0.weight"} <= state.keys()
    assert {"features.17.conv.3.running_var", "features.18.1.bias", "classifier.1.weight"} <= state.keys()
    weights = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(weights, tmp_path / mobilenet.WEIGHTS)
    extractor = open_extractor("mobilenet-v2", tmp_path)
    assert extractor.class_names is not None and len(extractor.class_names) == 1000
    assert extractor.features(draw(2, 3, 64, 64)).shape == (2, 1280)


def test_mobilenet_weights_that_do_not_fit_or_are_damaged_are_named(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"features.0.0.weight": torch.zeros(32, 3, 3, 3)}, path)
    with pytest.raises(DataError, match=r"other\.pth does not fit the network"):
        open_extractor("mobilenet-v2", path)
    path.write_bytes(b"short")
    with pytest.raises(DataError, match=r"other\.pth holds something other than weights"):
        open_extractor("mobilenet-v2", path)


def test_every_extractor_that_a_setting_may_name_is_in_the_table() -> None:
    assert tuple(EXTRACTORS) == get_args(ExtractorName)
