"""Numbers and pictures of a training reach a tracker once each, over images seen, and again where it goes on."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ldm.core.errors import ConfigError, Stopped
from ldm.core.images.decode import write_png
from ldm.core.training.loop import train
from ldm.core.training.trackers import TRACKERS, start_tracker
from tests.support.pipeline_run import Heard
from tests.support.plans import replace
from tests.support.regression import FP32, LAST, PLAN, Regression

LINE = {"images": 64, "step": 8, "loss": 0.5, "fid[inception]": 3.5, "conditions": {}}


class Fake(ModuleType):
    """A tracker's package that remembers its calls."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*given: Any, **named: Any) -> Any:
            self.calls.append((name, *given, named))
            return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

        return (lambda path: f"picture {Path(path).parent.name}") if name == "Image" else call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mine" / "dit"
    (made / "samples").mkdir(parents=True)
    write_png(made / "samples" / "0000000064.png", np.zeros((2, 2, 3), np.uint8))
    return made


def tracked(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    package = Fake(name)
    monkeypatch.setitem(sys.modules, name, package)
    tracker = TRACKERS[name](folder, {"lr": 0.1})
    tracker.line(LINE)
    tracker.pictures(folder, 64)
    tracker.close()
    return package.calls


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_log_by_images_and_go_on_in_the_same_run(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (tracked(name, folder, monkeypatch) for _ in range(2))
    calls = [call for call in first if call[0] != "define_metric"]
    assert first == second and [call[0] for call in calls] == ["init", "log", "log", "finish"]
    named = first[0][1]
    assert named["config"] == {"lr": 0.1} and named["resume"] == "allow"
    run = (folder / "tracker.txt").read_text()
    assert named.get("id", named["name"]).endswith(run)
    assert calls[1][1] == {"images": 64, "loss": 0.5, "fid[inception]": 3.5}
    assert calls[2][1] == {"images": 64, "samples": "picture samples"}


def test_mlflow_takes_names_without_brackets_and_goes_on_in_the_same_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (tracked("mlflow", folder, monkeypatch) for _ in range(2))
    assert [call[0] for call in first] == [
        *("set_experiment", "start_run", "log_params", "log_metrics", "log_artifact", "end_run")
    ]
    assert first[1][1] == {"run_name": "mine-dit"} and second[1][1] == {"run_id": "abc"}
    assert first[3][1:] == ({"loss": 0.5, "fid_inception_": 3.5}, {"step": 64})
    assert first[4][1:] == (str(folder / "samples" / "0000000064.png"), {"artifact_path": "samples"})


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_fails_is_switched_off_and_the_training_goes_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, heard, task = Fake(name), Heard(), Regression()

    def log(*of: Any, **named: Any) -> None:
        package.calls.append(("log",))
        raise ConnectionError("no route to host")

    vars(package)["log" if name == "wandb" else "log_metrics"] = log
    monkeypatch.setitem(sys.modules, name, package)
    task.signal_at = LAST  # spares drawing the curves
    with pytest.raises(Stopped):
        train(task, replace(PLAN, tracker=name), FP32, tmp_path, heard)
    [warning] = heard.warnings
    assert warning == f"tracker {name} failed and is switched off: no route to host; metrics.jsonl has all numbers"
    assert [call[0] for call in package.calls].count("log") == 1 and len(task.stepped_with) == LAST + 1


def test_memory_that_runs_out_in_a_tracker_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Fake("wandb")
    vars(package)["log"] = lambda *of, **named: bytearray(2**62)
    monkeypatch.setitem(sys.modules, "wandb", package)
    with pytest.raises(MemoryError):
        train(Regression(), replace(PLAN, tracker="wandb"), FP32, tmp_path, Heard())


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_does_not_start_is_refused_in_one_line(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*of: Any, **named: Any) -> None:
        raise RuntimeError("api_key not configured\nmore of it")

    package = Fake(name)
    vars(package).update(init=start, start_run=start)
    monkeypatch.setitem(sys.modules, name, package)
    with pytest.raises(ConfigError, match=rf"{name}`: it does not start: api_key not configured \(set it up, or leave"):
        start_tracker(name, folder, {})


@pytest.mark.parametrize("name", TRACKERS)
def test_a_package_that_is_missing_is_named(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=f"tracker={name}"):
        start_tracker(name, folder, {})
