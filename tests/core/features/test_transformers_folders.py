"""Image networks of transformers as extractors: the library's own outputs, and refusals of what is no such folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm.core.errors import DataError
from ldm.core.features.extractor import Features
from ldm.core.features.registry import open_extractor
from ldm.core.files import sha256_file
from ldm.core.metrics import evaluate

transformers = pytest.importorskip("transformers")
ATTENTION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}


def dinov2() -> Any:
    return transformers.Dinov2Model(transformers.Dinov2Config(**ATTENTION))


def clip() -> Any:
    vision = {**ATTENTION, "intermediate_size": 48, "projection_dim": 24}
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 9,
    }
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))


def resnet_classifier() -> Any:
    names = {0: "cat", 1: "dog", 2: "owl"}
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], id2label=names)
    return transformers.ResNetForImageClassification(config)


def save(network: Any, folder: Path) -> Path:
    """Save a network, every weight random, beside the preparation of images that its publisher would give."""
    generator = torch.Generator().manual_seed(0)
    for tensor in network.parameters():
        tensor.data = torch.randn(tensor.shape, generator=generator) * 0.2
    network.save_pretrained(folder)
    prepared = {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 28, "width": 28}}
    statistics = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps({**prepared, **statistics, "resample": 3}))
    return folder


def prepared(images: Tensor) -> Tensor:
    """Normalise images of the network's own size, as its publisher does."""
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(1, 3, 1, 1)
    return ((images + 1) / 2 - mean) / std


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 28, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_features_of_dinov2_are_its_normalised_class_token(tmp_path: Path, images: Tensor) -> None:
    network = dinov2().eval()
    extractor = open_extractor("transformers", save(network, tmp_path))
    expected = network(prepared(images)).pooler_output.detach()
    torch.testing.assert_close(extractor.features(images), expected)
    assert (extractor.name, extractor.dim, extractor.class_names) == ("dinov2", 32, None)
    assert extractor.resize == "bicubic antialias 28"


def test_features_of_clip_are_the_embeddings_that_it_compares_with_texts(tmp_path: Path, images: Tensor) -> None:
    network = clip().eval()
    extractor = open_extractor("transformers", save(network, tmp_path))
    expected = network.visual_projection(network.vision_model(prepared(images)).pooler_output)
    torch.testing.assert_close(extractor.features(images), expected.detach())


def test_a_classifier_gives_what_its_head_reads_its_logits_and_its_classes(tmp_path: Path, images: Tensor) -> None:
    network = resnet_classifier().eval()
    extractor = open_extractor("transformers", save(network, tmp_path))
    torch.testing.assert_close(extractor.logits(images), network(prepared(images)).logits.detach())
    pooled = network.resnet(prepared(images)).pooler_output.flatten(1).detach()
    torch.testing.assert_close(extractor.features(images), pooled)
    assert extractor.class_names == ("cat", "dog", "owl")


def test_images_of_any_size_are_resized_as_pillow_does(tmp_path: Path) -> None:
    extractor = open_extractor("transformers", save(dinov2(), tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    resized = np.array(Image.fromarray(pixels).resize((28, 28), Image.Resampling.BICUBIC))
    large, small = (torch.from_numpy(each.copy()).permute(2, 0, 1)[None] / 127.5 - 1 for each in (pixels, resized))
    torch.testing.assert_close(extractor.features(large), extractor.features(small), atol=0.05, rtol=0)


def test_weights_in_several_files_are_read_and_known_by_all_of_them(tmp_path: Path, images: Tensor) -> None:
    network = dinov2().eval()
    whole = open_extractor("transformers", save(network, tmp_path / "whole"))
    assert whole.weights_sha256 == sha256_file(tmp_path / "whole" / "model.safetensors")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    (tmp_path / "parts" / "model.safetensors").unlink()
    network.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    found = open_extractor("transformers", tmp_path / "parts")
    torch.testing.assert_close(found.features(images), whole.features(images))
    _, *_, last = sorted((tmp_path / "parts").glob("model-*.safetensors"))
    tensors = {name: tensor + 1 for name, tensor in load_file(last).items()}
    save_file(tensors, last, {"format": "pt"})
    changed = open_extractor("transformers", tmp_path / "parts")
    assert len({each.weights_sha256 for each in (whole, found, changed)}) == 3


def test_without_classes_there_is_no_inception_score(tmp_path: Path) -> None:
    extractor = open_extractor("transformers", save(dinov2(), tmp_path))
    draws = torch.rand(24, 3, 28, 28, generator=torch.Generator().manual_seed(2)) * 2 - 1
    features, logits = extractor.both(draws)
    settings = evaluate.Settings(score_splits=1, precision_k=2, density_k=2)
    report = evaluate.evaluate(
        Features(features, logits), Features(features[:12], logits[:12]), extractor, settings=settings
    )
    assert "frechet_distance[dinov2]" in report.numbers
    assert not any("inception_score" in name for name in {**report.numbers, **report.floor})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor_config.json"),
        (lambda folder: (folder / "preprocessor_config.json").write_text('{"size": 0}'), "preprocessor_config.json"),
        (lambda folder: _describe(folder, auto_map={"AutoModel": "mine.py"}), "code of its own"),
        (lambda folder: _describe(folder, num_hidden_layers=3), "lacks"),
        (lambda folder: _describe(folder, model_type="bert"), "model.safetensors lacks"),
    ],
)
def test_a_folder_that_is_not_a_whole_image_network_is_refused_by_name(tmp_path: Path, change: Any, says: str) -> None:
    change(save(dinov2(), tmp_path))
    with pytest.raises(DataError, match=says):
        open_extractor("transformers", tmp_path)


def _describe(folder: Path, **changed: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))
