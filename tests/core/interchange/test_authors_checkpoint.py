"""The DiT authors' checkpoints: the same output as an implementation apart, and nothing in a file is run."""

import argparse
import os
import pickle
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm.core.errors import ConfigError, DataError
from ldm.core.interchange.checkpoint import load_dit
from tests.support.authors_dit import forward, random_checkpoint, training_checkpoint

STEPS = torch.tensor([0, 1, 17, 250, 500, 700, 998, 999])


def saved(content: Any, folder: Path) -> Path:
    torch.save(content, folder / "model.pt")
    return folder / "model.pt"


@pytest.mark.parametrize("shape", [{}, {"sigma": False, "patch": 4, "channels": 3}, {"width": 64, "depth": 3}])
def test_the_output_is_the_papers_network_at_every_step(shape: dict[str, Any], tmp_path: Path) -> None:
    state = random_checkpoint(**shape)
    model = load_dit(saved(state, tmp_path), heads=4)
    x = torch.randn(8, shape.get("channels", 4), 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(8) % 6
    with torch.no_grad():
        ours, theirs = model(x, (STEPS + 1) / 1000, {"labels": labels}), forward(state, 4, x, STEPS, labels)
    assert theirs.std() > 0.1
    assert model.config.learn_sigma == shape.get("sigma", True)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_of_a_training_checkpoint_the_averaged_weights_are_taken(tmp_path: Path) -> None:
    content = training_checkpoint()
    model = load_dit(saved(content, tmp_path), heads=2)
    assert torch.equal(model.final.weight, content["ema"]["final_layer.linear.weight"])


def test_the_published_sizes_need_no_heads_and_others_do(tmp_path: Path) -> None:
    small = random_checkpoint(width=384, depth=12, side=4)
    assert load_dit(saved(small, tmp_path)).config.heads == 6
    with pytest.raises(ConfigError, match="heads=N"):
        load_dit(saved(random_checkpoint(), tmp_path))


def test_the_last_row_of_the_table_is_the_null_class_unless_said_otherwise(tmp_path: Path) -> None:
    path = saved(random_checkpoint(classes=5), tmp_path)
    default, without = load_dit(path, heads=2), load_dit(path, heads=2, num_classes=6)
    assert (default.config.num_classes, default.config.has_null) == (5, True)
    assert (without.config.num_classes, without.config.has_null) == (6, False)
    with pytest.raises(ConfigError, match="num_classes=4"):
        load_dit(path, heads=2, num_classes=4)


class Runs:
    """Writes a file when unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("place", ["alone", "beside the weights", "zipped", "in the arguments"])
def test_a_malicious_file_is_refused_and_does_nothing(place: str, protocol: int, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "model.pt"
    bad = Runs(os.system, f"touch {mark}")
    content: Any = bad if place == "alone" else random_checkpoint() | {"z": bad}
    if place == "in the arguments":
        content = training_checkpoint() | {"args": argparse.Namespace(model=bad)}
    if place in ("zipped", "in the arguments"):
        torch.save(content, path, pickle_protocol=max(protocol, 2))
    else:
        path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(DataError, match=r"model\.pt holds something other than weights") as refused:
        load_dit(path, heads=2)
    assert not mark.exists()
    assert "weights_only" not in f"{refused.value.message} {refused.value.remedy}", "torch advises to run it"


def test_a_file_that_calls_what_it_brings_is_refused(tmp_path: Path) -> None:
    path = saved({"model": {"w": Runs(types.SimpleNamespace)}}, tmp_path)
    with pytest.raises(DataError, match="holds something other than weights"):
        load_dit(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x80\x02.", b"PK\x03\x04" + bytes(40), b"\x80\x04\x95" + b"\xff" * 20, b"]" * 1000],
    ids=["empty", "text", "nothing", "zip", "torn", "nested"],
)
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.pt"):
        load_dit(tmp_path / "model.pt")


@pytest.mark.parametrize("kind", ["quantised", "sparse", "without storage"])
def test_tensors_that_are_not_plain_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    tensors = {
        "quantised": lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        "sparse": lambda: torch.eye(4).to_sparse(),
        "without storage": lambda: torch.empty(4, device="meta"),
    }
    path = saved({"x_embedder.proj.weight": tensors[kind]()}, tmp_path)
    with pytest.raises(DataError, match=r"x_embedder\.proj\.weight is not a plain tensor"):
        load_dit(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = saved(random_checkpoint(width=16, side=4), tmp_path)
    whole = path.read_bytes()
    for cut in range(0, len(whole), len(whole) // 12):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"model\.pt"):
            load_dit(path, heads=2)


def test_a_missing_file_and_a_folder_in_a_zip_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_dit(tmp_path / "absent.pt")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("a/b.txt", "x")
    with pytest.raises(DataError, match=r"other\.pt"):
        load_dit(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pos_embed": None}, "pos_embed"),
        ({"pos_embed": torch.zeros(1, 16, 32)}, "pos_embed is not the fixed table"),
        ({"pos_embed": torch.zeros(16, 32)}, "pos_embed has shape"),
        ({"x_embedder.proj.weight": torch.zeros(32, 16)}, "x_embedder.proj.weight has shape"),
        ({"blocks.1.mlp.fc2.weight": None}, "blocks.1.mlp.fc2.weight"),
        ({"blocks.1.mlp.fc2.weight": torch.zeros(3)}, "blocks.1.mlp.down.weight"),
        ({"final_layer.linear.bias": torch.zeros(7)}, "7 outputs"),
        ({"blocks.0.attn.q_norm.weight": torch.zeros(8)}, "q_norm"),
        ({"blocks.0.attn.qkv.bias": [1, 2]}, "no state dict"),
    ],
)
def test_weights_that_are_no_dit_are_refused_by_name(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    content = {name: value for name, value in (random_checkpoint() | changes).items() if value is not None}
    with pytest.raises(DataError, match=named):
        load_dit(saved(content, tmp_path), heads=2)
