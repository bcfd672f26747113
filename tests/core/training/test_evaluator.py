"""What is measured while training changes nothing of it, and is recorded once however often the run is interrupted."""

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ldm.core import seeds
from ldm.core.errors import Stopped
from ldm.core.progress import Silent
from ldm.core.runs import checkpoint
from ldm.core.training.evaluator import Best
from ldm.core.training.loop import Plan, train
from tests.support.plans import replace
from tests.support.regression import FP32, LAST, PLAN, Killed, Regression

BARE = replace(PLAN, validate_every=0, picture_every=0)
STEPS_OF_AN_EVALUATION = 3


class Ruler:
    """Measures how far the EMA has come, which grows all the time; asks three times whether to stop.

    What happens in which evaluation, by its images: `signal_at` and `kill_at` (in its middle, counted from the last
    step of this process), `kill_before_saving`, `kill_after_saving`.
    """

    every = 8
    criterion = "way"

    def __init__(
        self, task: Regression, folder: Path, higher_is_better: bool = True, conditions: Any = "a ruler"
    ) -> None:
        self.task, self.folder, self.higher_is_better = task, folder, higher_is_better
        self.conditions = {"with": conditions}
        self.signal_at: int | None = None
        self.kill_at: int | None = None
        self.kill_before_saving: int | None = None
        self.kill_after_saving: int | None = None
        self.started = 0
        self.initial = task.network[0].weight.detach().clone()

    def evaluate(self, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
        assert not self.task.network.training
        self.started += 1
        images = 4 * self.task.step + 4
        for step in range(STEPS_OF_AN_EVALUATION):
            if should_stop():
                return None
            seeds.uniform(0, "ruler", range(step))
            if step == 1 and images == self.signal_at:
                os.kill(os.getpid(), signal.SIGTERM)
            if step == 1 and images == self.kill_at:
                raise Killed
        return {self.criterion: float((self.task.network[0].weight - self.initial).norm()), "nested": {"floor": 1.0}}

    def save_best(self, images_seen: int, numbers: Mapping[str, Any]) -> None:
        if images_seen == self.kill_before_saving:
            raise Killed
        kept = {"images": images_seen, **{k: v.tolist() for k, v in self.task.network.state_dict().items()}}
        (self.folder / "kept.json").write_text(json.dumps(kept))
        if images_seen == self.kill_after_saving:
            raise Killed

    def has_best(self) -> bool:
        return (self.folder / "kept.json").exists()


def run(folder: Path, plan: Plan = BARE, prepare: Callable[[Ruler], None] | None = None, stop_at: int = LAST) -> Ruler:
    """Train up to and with a step; also after the last one a signal ends it, before curves are drawn."""
    folder.mkdir(exist_ok=True)
    task = Regression()
    task.signal_at = stop_at
    ruler = Ruler(task, folder)
    if prepare is not None:
        prepare(ruler)
    with pytest.raises((Stopped, Killed)):
        train(task, plan, FP32, folder, Silent(), ruler)
    return ruler


def finish(folder: Path, prepare: Callable[[Ruler], None] | None = None, plan: Plan = BARE) -> Ruler:
    """Train to the end."""
    folder.mkdir(exist_ok=True)
    task = Regression()
    ruler = Ruler(task, folder)
    if prepare is not None:
        prepare(ruler)
    train(task, plan, FP32, folder, Silent(), ruler)
    return ruler


def lines(folder: Path) -> list[dict[str, Any]]:
    read = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in read]


def evaluated(folder: Path) -> list[int]:
    return [line["images"] for line in lines(folder) if "way" in line]


def remains(folder: Path) -> dict[str, Any]:
    last = folder / "checkpoints" / "0000000028"
    found: dict[str, Any] = {path.name: path.read_bytes() for path in last.iterdir()}
    return {**found, "lines": lines(folder), "kept": json.loads((folder / "kept.json").read_text())}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(folder)
    return folder


def test_evaluations_fall_where_the_interval_is_passed_and_at_the_end(uninterrupted: Path) -> None:
    assert evaluated(uninterrupted) == [8, 16, 24, 28]
    line = next(line for line in lines(uninterrupted) if "way" in line)
    assert line["conditions"] == {"with": "a ruler"} and line["step"] == 2 and line["nested"] == {"floor": 1.0}


def test_evaluating_changes_nothing_of_the_training(tmp_path: Path, uninterrupted: Path) -> None:
    train(Regression(), BARE, FP32, tmp_path, Silent())
    for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"):
        one, other = (folder / "checkpoints" / "0000000028" / name for folder in (tmp_path, uninterrupted))
        assert one.read_bytes() == other.read_bytes(), name
    assert lines(tmp_path) == [line for line in lines(uninterrupted) if "way" not in line]


@pytest.mark.parametrize("images", [8, 16, 24, 28])
def test_a_stop_within_an_evaluation_ends_it_and_the_evaluation_is_made_on_resuming(
    tmp_path: Path, uninterrupted: Path, images: int
) -> None:
    def interrupt(ruler: Ruler) -> None:
        ruler.signal_at = images

    folder = tmp_path / "run"
    folder.mkdir()
    task = Regression()
    ruler = Ruler(task, folder)
    interrupt(ruler)
    with pytest.raises(Stopped, match=f"after {images} images"):
        train(task, BARE, FP32, folder, Silent(), ruler)
    assert images not in evaluated(folder) and len(task.stepped_with) == images // 4
    finish(folder)
    assert remains(folder) == remains(uninterrupted)


@pytest.mark.parametrize("images", [8, 12])
def test_a_stop_before_an_evaluation_that_is_due_postpones_it(tmp_path: Path, uninterrupted: Path, images: int) -> None:
    stopped = run(tmp_path, stop_at=images // 4 - 1)
    assert evaluated(tmp_path) == [8][: images // 12] and stopped.started == 1
    finish(tmp_path)
    assert remains(tmp_path) == remains(uninterrupted)


@pytest.mark.parametrize("when", ["kill_at", "kill_before_saving", "kill_after_saving"])
@pytest.mark.parametrize("images", [8, 16, 24, 28])
def test_a_kill_around_an_evaluation_costs_nothing_but_its_repetition(
    tmp_path: Path, uninterrupted: Path, when: str, images: int
) -> None:
    run(tmp_path, prepare=lambda ruler: setattr(ruler, when, images))
    finish(tmp_path)
    assert remains(tmp_path) == remains(uninterrupted)


def test_what_was_trained_is_saved_before_it_is_evaluated(tmp_path: Path) -> None:
    run(tmp_path, prepare=lambda ruler: setattr(ruler, "kill_at", 8))
    saved = tmp_path / "checkpoints" / "0000000008" / "state.json"
    assert BARE.checkpoint_every > 8 and json.loads(saved.read_text())["evaluation_pending"]


def test_a_pending_evaluation_is_recorded_once_however_often_making_it_fails(
    tmp_path: Path, uninterrupted: Path
) -> None:
    run(tmp_path, prepare=lambda ruler: setattr(ruler, "signal_at", 16))
    for when in ("kill_at", "kill_before_saving", "kill_after_saving", "signal_at"):
        at = 16 if when.endswith("saving") else 4
        ruler = run(tmp_path, prepare=lambda ruler, name=when, images=at: setattr(ruler, name, images), stop_at=6)
        assert ruler.started == 1 and not ruler.task.stepped_with, "it ended before the first step"
    finish(tmp_path)
    assert remains(tmp_path) == remains(uninterrupted)


def test_an_evaluation_that_an_earlier_version_left_pending_is_made(tmp_path: Path, uninterrupted: Path) -> None:
    run(tmp_path, prepare=lambda ruler: setattr(ruler, "signal_at", 16))
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None and found.state.pop("evaluation_pending")
    checkpoint.save(tmp_path, 16, found.groups, {**found.state, "owes": True}, keep=2)
    finish(tmp_path)
    assert remains(tmp_path) == remains(uninterrupted)


def test_a_run_may_go_on_without_evaluating_and_start_again(tmp_path: Path, uninterrupted: Path) -> None:
    run(tmp_path, prepare=lambda ruler: setattr(ruler, "signal_at", 16))
    task = Regression()
    task.signal_at = 4
    with pytest.raises(Stopped):
        train(task, BARE, FP32, tmp_path, Silent())
    finish(tmp_path)
    assert evaluated(tmp_path) == [8, 24, 28]
    assert remains(tmp_path)["model.safetensors"] == remains(uninterrupted)["model.safetensors"]


@pytest.mark.parametrize(("higher_is_better", "kept_at"), [(True, 28), (False, 8)])
def test_the_state_that_is_kept_is_the_best_and_no_other(tmp_path: Path, higher_is_better: bool, kept_at: int) -> None:
    finish(tmp_path, lambda ruler: setattr(ruler, "higher_is_better", higher_is_better))
    assert json.loads((tmp_path / "kept.json").read_text())["images"] == kept_at


@pytest.mark.parametrize(("higher_is_better", "kept_at"), [(True, [1, 3]), (False, [1, 2])])
def test_the_best_is_by_the_criterion_and_of_equals_the_first(
    tmp_path: Path, higher_is_better: bool, kept_at: list[int]
) -> None:
    ruler = Ruler(Regression(), tmp_path, higher_is_better)
    best = Best(ruler, [])
    values = {1: 0.5, 2: 0.25, 3: 0.75, 4: 0.75, 5: 0.25}
    line: dict[str, Any] = {"conditions": ruler.conditions}
    assert [at for at, value in values.items() if best.improves({**line, "way": value})] == kept_at


def test_only_evaluations_under_the_same_conditions_are_compared(tmp_path: Path) -> None:
    finish(tmp_path)
    ruler = Ruler(Regression(), tmp_path, conditions="another ruler")
    recorded = lines(tmp_path)
    assert Best(ruler, recorded).value is None
    same = Ruler(Regression(), tmp_path)
    assert Best(same, recorded).value == max(line["way"] for line in recorded if "way" in line)
    (tmp_path / "kept.json").unlink()
    assert Best(same, recorded).value is None, "what is not there cannot be the best"
