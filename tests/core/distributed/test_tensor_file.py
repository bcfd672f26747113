"""Files written a tensor at a time are those that the safetensors package writes; rows are read without the rest."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ldm.core.distributed import processes, tensor_file
from ldm.core.distributed.sharded_tensors import local_rows, sharded_tensors

DTYPES = list(tensor_file._DTYPES)


def write(path: Path, tensors: dict[str, torch.Tensor]) -> list[str]:
    """Write tensors and return the order in which they were asked for."""
    asked: list[str] = []

    def read(name: str) -> torch.Tensor:
        asked.append(name)
        return tensors[name]

    tensor_file.write(path, tensors, read)
    return asked


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=9),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)),
        min_size=1,
        max_size=6,
    )
)
def test_the_bytes_are_those_of_the_safetensors_package(tmp_path_factory: pytest.TempPathFactory, named: dict) -> None:
    folder = tmp_path_factory.mktemp("files")
    tensors = {name: torch.randint(0, 2, shape).to(dtype) for name, (dtype, shape) in named.items()}
    assert sorted(write(folder / "ours", tensors)) == sorted(tensors)
    save_file(tensors, folder / "theirs")
    assert (folder / "ours").read_bytes() == (folder / "theirs").read_bytes()


def test_tensors_that_lie_otherwise_in_memory_are_written_as_they_read(tmp_path: Path) -> None:
    tensors = {"turned": torch.randn(3, 5).T, "last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)}
    write(tmp_path / "file", tensors)
    found = load_file(tmp_path / "file")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_rows_of_all_processes_are_the_file(tmp_path: Path, size: int) -> None:
    tensors = {
        "matrix": torch.randn(5, 3),
        "vector": torch.randn(4),
        "scalar": torch.tensor(7.0),
        "whole": torch.ones(2),
    }
    save_file(tensors, tmp_path / "file")
    pieces = []
    for rank in range(size):
        world = processes.World(rank, size, rank)
        pieces.append(
            tensor_file.read_rows(
                tmp_path / "file",
                lambda name, shape, world=world: local_rows(shape[0], world) if shape and name != "whole" else None,
            )
        )
    for name, tensor in tensors.items():
        if name in ("scalar", "whole"):
            assert all(torch.equal(piece[name], tensor) for piece in pieces)
        else:
            assert torch.equal(torch.cat([piece[name] for piece in pieces]), tensor)


def test_a_file_that_is_none_is_the_packages_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"nothing of the kind")
    with pytest.raises(SafetensorError):
        tensor_file.read_rows(tmp_path / "file", lambda name, shape: None)


def test_tensors_are_read_once_and_in_the_order_of_the_file(tmp_path: Path) -> None:
    held = sharded_tensors({"b": torch.ones(2), "a": torch.zeros(3), "long": torch.tensor([1])})
    with pytest.raises(AssertionError, match="b is read before long"):
        held.read("b")
    held.write(tmp_path / "file")
    held.send_rest()
    assert list(load_file(tmp_path / "file")) == ["long", "a", "b"]
