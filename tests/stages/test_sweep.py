"""`ldm sweep`: every combination is drawn and judged once, and compared from what lies on disk."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from ldm.cli import sweep
from ldm.core.progress import Outcome, Silent
from ldm.stages.configs.sweep import Sweep

sys.path.insert(0, str(Path(__file__).parent))
from pipeline_run import Pipeline


class Console(Silent):
    def outcome(self, command: str, outcome: Outcome) -> None: ...
    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def own(trained: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return trained.copy(tmp_path_factory.mktemp("sweep"))


def swept(pipeline: Pipeline, **settings: object) -> Outcome:
    where = {"name": pipeline.name, "runs_dir": pipeline.runs_dir, "machine": {"device": "cpu"}, "num": 8}
    return sweep.run(Sweep.model_validate({**where, **settings}), Console())


def table(outcome: Outcome) -> list[dict[str, str]]:
    return list(csv.DictReader((outcome.directory / "table.csv").read_text().splitlines()))


def test_every_combination_has_a_row_and_a_row_of_the_same_seeds(own: Pipeline) -> None:
    outcome = swept(own, cfg=(1, 3), steps=(2, 3))
    rows = table(outcome)
    assert [(row["cfg"], row["steps"]) for row in rows] == [("1.0", "2"), ("3.0", "2"), ("1.0", "3"), ("3.0", "3")]
    assert all(float(row["frechet_distance[classifier]"]) > 0 for row in rows)
    assert set(outcome.summary) == {f"cfg {cfg}, {steps} steps" for cfg in (1, 3) for steps in (2, 3)}
    picture = np.array(Image.open(outcome.directory / "grid.png"))
    assert picture.shape[0] == 4 * (64 + 2) + 2 and picture.shape[1] > 10 * 64
    assert Image.open(outcome.directory / "curves.png").size[0] > 400


def test_what_was_drawn_before_is_not_drawn_again(own: Pipeline) -> None:
    first = swept(own, cfg=(1, 2), steps=(2,))
    folders = {path: path.stat().st_mtime_ns for path in own.folder.glob("samples/*/manifest.json")}
    again = swept(own, cfg=(1, 2, 4), steps=(2,))
    assert {path: path.stat().st_mtime_ns for path in folders} == folders
    assert len(table(again)) == 3 and again.directory == first.directory


@pytest.mark.parametrize("settings", [{"cfg": ("x",)}, {"cfg": (-1,)}, {"steps": (1.5,)}, {"steps": (0,)}])
def test_lists_that_hold_no_numbers_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Sweep.model_validate(settings)
