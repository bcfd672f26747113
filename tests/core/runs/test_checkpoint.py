"""A checkpoint is whole or invisible: every damage is detected and named, and the one before takes over."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm.core.errors import DataError, Diverged
from ldm.core.runs import checkpoint


def groups(value: float) -> dict[str, dict[str, torch.Tensor]]:
    tensors = {"weight": torch.full((3, 4), value), "steps": torch.tensor(7)}
    return {name: {key: tensor.clone() for key, tensor in tensors.items()} for name in ("model", "ema", "optimizer")}


def save(folder: Path, images: int, keep: int = 2) -> Path:
    return checkpoint.save(folder, images, groups(float(images)), {"images": images, "meter": {"loss": 0.1}}, keep)


def load(folder: Path) -> tuple[checkpoint.Checkpoint | None, list[str]]:
    warnings: list[str] = []
    return checkpoint.newest(folder, warnings.append), warnings


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_what_was_saved_is_what_is_loaded_to_the_bit(tmp_path: Path) -> None:
    weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    tensors = {"a": weights, "turned": weights.T, "half": weights.half(), "bytes": torch.arange(4, dtype=torch.uint8)}
    state = {"images": 64, "exact": 0.1 + 0.2, "nested": {"list": [1, None, "ü"]}}
    path = checkpoint.save(tmp_path, 64, {"model": tensors}, state, keep=2)
    assert path == tmp_path / "checkpoints" / "0000000064"
    found, warnings = load(tmp_path)
    assert found is not None and found.path == path and not warnings
    assert found.groups["model"].keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found.groups["model"][name].dtype == tensor.dtype
        assert torch.equal(found.groups["model"][name], tensor)
    assert found.state == {**state, "time_convention": "t = 0 is data, t = 1 is noise"}


def test_a_checkpoint_holds_safetensors_and_json_only(tmp_path: Path) -> None:
    written = sorted(path.name for path in save(tmp_path, 1).iterdir())
    tensors = ["ema.safetensors", "model.safetensors", "optimizer.safetensors"]
    assert written == sorted([*tensors, "manifest.json", "state.json"])


def test_nothing_saved_is_nothing_found(tmp_path: Path) -> None:
    assert load(tmp_path) == (None, [])


def test_the_newest_are_kept_by_number_and_not_by_spelling(tmp_path: Path) -> None:
    for images in (9_999_999_936, 9_999_999_999, 10_000_000_064):
        save(tmp_path, images)
    assert names(tmp_path) == ["10000000064", "9999999999"]
    found, _ = load(tmp_path)
    assert found is not None and found.state["images"] == 10_000_000_064


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_every_damage_to_the_newest_is_named_and_the_one_before_is_taken(tmp_path: Path, file: str) -> None:
    save(tmp_path, 64)
    path = save(tmp_path, 128) / file
    whole = path.read_bytes()
    damages: list[bytes | None] = [None, b"", whole[:-2], whole[: len(whole) // 2], whole + b"x"]
    for place in range(0, len(whole), max(1, len(whole) // 20)):
        damages.append(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
    for damage in damages:
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage)
        found, warnings = load(tmp_path)
        assert found is not None and found.state["images"] == 64
        assert len(warnings) == 1 and str(path) in warnings[0], warnings
    path.write_bytes(whole)
    found, warnings = load(tmp_path)
    assert found is not None and found.state["images"] == 128 and not warnings


def test_when_all_are_damaged_nothing_starts_over_silently(tmp_path: Path) -> None:
    for images in (64, 128):
        (save(tmp_path, images) / "ema.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"no checkpoint in .* is whole") as caught:
        load(tmp_path)
    where = tmp_path / "checkpoints"
    assert caught.value.remedy == f"restore one, or remove {where} to start over"
    shutil.rmtree(where)
    assert load(tmp_path) == (None, [])


def test_a_save_after_falling_back_is_kept_and_the_damaged_ones_beyond_it_go(tmp_path: Path) -> None:
    """Damaged checkpoints of more images must not count among the newest, or they would push out the good one."""
    for images in (64, 128, 192):
        save(tmp_path, images, keep=3)
    for damaged in ("0000000128", "0000000192"):
        (tmp_path / "checkpoints" / damaged / "model.safetensors").unlink()
    found, warnings = load(tmp_path)
    assert found is not None and found.state["images"] == 64 and len(warnings) == 2
    save(tmp_path, 96)
    assert names(tmp_path) == ["0000000064", "0000000096"]
    found, warnings = load(tmp_path)
    assert found is not None and found.state["images"] == 96 and not warnings


def test_a_damaged_checkpoint_is_written_again_under_the_same_name(tmp_path: Path) -> None:
    save(tmp_path, 64)
    (save(tmp_path, 128) / "model.safetensors").write_bytes(b"")
    save(tmp_path, 128)
    found, warnings = load(tmp_path)
    assert found is not None and found.state["images"] == 128 and not warnings


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("group", ["model", "ema", "optimizer"])
def test_what_is_not_finite_is_never_saved(tmp_path: Path, value: float, group: str) -> None:
    save(tmp_path, 64)
    bad = groups(1.0)
    bad[group]["weight"][2, 3] = value
    with pytest.raises(Diverged, match=rf"weight \({group}\) is no longer finite") as caught:
        checkpoint.save(tmp_path, 128, bad, {}, keep=2)
    assert caught.value.exit_code == 4
    assert names(tmp_path) == ["0000000064"]


def test_a_kill_inside_a_save_loses_no_older_checkpoint(tmp_path: Path) -> None:
    """SIGKILL before the n-th thing that a save does to the disk, for every n."""
    (tmp_path / "clean").mkdir()
    save(tmp_path / "clean", 64)
    done = 0
    for survive in range(26):
        folder = tmp_path / str(survive)
        shutil.copytree(tmp_path / "clean", folder)
        child = os.fork()
        if child == 0:
            die_after(survive)
            checkpoint.save(folder, 128, {"model": groups(0.0)["model"]}, {"images": 128}, keep=1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        found, warnings = load(folder)
        assert found is not None and not warnings
        assert all(name.isdecimal() for name in names(folder)), "no temporary is left after the next start"
        if os.WIFEXITED(status):
            done += 1
            assert os.WEXITSTATUS(status) == 0 and names(folder) == ["0000000128"]
        else:
            assert os.WTERMSIG(status) == signal.SIGKILL
            assert found.state["images"] in (64, 128)
    assert 0 < done < 20, "some died inside the save, some came through"


def die_after(survive: int) -> None:
    """Let this process kill itself at its next fsync, rename or deletion after `survive` of them."""
    left = iter(range(survive))

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        return call

    for module, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "mkdir")):
        setattr(module, name, dying(getattr(module, name)))


@pytest.mark.parametrize(
    "want",
    [
        MemoryError("Cannot allocate memory (os error 12)"),
        RuntimeError("unable to mmap 20000080 bytes from file </a>: Cannot allocate memory (12)"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_want_of_memory_is_not_taken_for_damage(tmp_path: Path, want: Exception) -> None:
    def read(path: Path) -> dict[str, torch.Tensor]:
        raise want

    save(tmp_path, 8)
    save(tmp_path, 16)
    with pytest.raises(type(want)) as caught:
        checkpoint.newest(tmp_path, pytest.fail, read)
    assert caught.value is want
