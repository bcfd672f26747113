"""Saving and loading a denoiser: what comes back, and what is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm.core.denoisers.dit_config import DiTConfig
from ldm.core.denoisers.registry import FAMILIES, build, load, read_config, save
from ldm.core.errors import DataError

CONFIG = DiTConfig(
    latent_channels=4,
    latent_size=(8, 4),
    patch_size=2,
    width=16,
    depth=2,
    heads=2,
    num_classes=3,
    rope=True,
    label_dropout=0.0,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(build(CONFIG), tmp_path / "final", {"prediction": "v"})
    return tmp_path / "final"


def rewrite(folder: Path, **changes: Any) -> None:
    described = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        (described["config"] if key in described["config"] else described)[key] = value
    (folder / "config.json").write_text(json.dumps(described))


def test_a_saved_network_loads_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save(model, tmp_path)
    loaded = load(tmp_path)
    assert loaded.config == CONFIG
    assert not loaded.training
    x, t, cond = torch.randn(2, 4, 8, 4), torch.rand(2), {"labels": torch.tensor([0, 2])}
    assert torch.equal(loaded(x, t, cond), model(x, t, cond))
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in loaded.parameters())


def test_loading_draws_no_random_numbers(folder: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_config_json_says_format_kind_and_extras(folder: Path) -> None:
    described = json.loads((folder / "config.json").read_text())
    assert described["format"] == 1
    assert described["kind"] in FAMILIES
    assert described["prediction"] == "v"
    assert read_config(folder) == CONFIG
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_or_damaged_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-9])
    with pytest.raises(DataError, match=name):
        load(folder)
    (folder / name).write_bytes(b"")
    with pytest.raises(DataError, match=name):
        load(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match=name):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"depth": 3}, "has 2 blocks, not 3"),
        ({"depth": 10**9}, "depth"),
        ({"width": 32}, "does not fit"),
        ({"num_classes": 4}, "label.table.weight"),
        ({"rope": "perhaps"}, "rope"),
        ({"depth": None}, "depth"),
        ({"latent_size": [8, 4, 4]}, "latent_size"),
        ({"patch_size": 3}, "patches of 3"),
        ({"kind": "gan"}, "gan"),
        ({"kind": ["dit"]}, "dit"),
        ({"format": 2}, "format 2"),
        ({"config": {"depth": 2}}, "latent_channels"),
        ({"config": {"colour": 2}}, "colour"),
        ({"config": 7}, "7"),
    ],
)
def test_a_config_at_odds_with_the_weights_is_refused(folder: Path, changes: dict[str, Any], word: str) -> None:
    rewrite(folder, **changes)
    with pytest.raises(DataError, match=word):
        load(folder)
