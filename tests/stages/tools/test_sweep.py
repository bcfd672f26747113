"""`ldm sweep`: every combination is drawn and evaluated once, and compared from what lies on disk."""

import csv
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from ldm.cli import sweep
from ldm.cli.main import run as ldm
from ldm.core.errors import ConfigError, DataError
from ldm.core.progress import Outcome, Silent
from ldm.stages.configs.folders import Verify
from ldm.stages.configs.sweep import Sweep
from ldm.stages.tools import verify
from ldm.stages.tools.sweep import shown_numbers
from tests.support.pipeline_run import Heard, Pipeline, manifest


class Console(Silent):
    def outcome(self, command: str, outcome: Outcome) -> None: ...
    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def own(trained: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return trained.copy(tmp_path_factory.mktemp("sweep"))


def swept(pipeline: Pipeline, console: Silent | None = None, **settings: object) -> Outcome:
    where = {"name": pipeline.name, "runs_dir": pipeline.runs_dir, "machine": {"device": "cpu"}, "num": 8}
    return sweep.run(Sweep.model_validate({**where, **settings}), console or Console())


def table(outcome: Outcome) -> list[dict[str, str]]:
    return list(csv.DictReader((outcome.directory / "table.csv").read_text().splitlines()))


def test_every_combination_has_a_row_and_a_row_of_the_same_seeds(own: Pipeline) -> None:
    outcome = swept(own, cfg=(1, 3), steps=(2, 3))
    rows = table(outcome)
    assert [(row["cfg"], row["steps"]) for row in rows] == [("1.0", "2"), ("3.0", "2"), ("1.0", "3"), ("3.0", "3")]
    assert all(float(row["frechet_distance[classifier]"]) > 0 for row in rows)
    points = [f"cfg {cfg}, {steps} steps" for steps in (2, 3) for cfg in (1, 3)]
    assert list(outcome.summary) == ["", *points, "real images", "table"]
    picture = np.array(Image.open(outcome.directory / "grid.png"))
    assert picture.shape[0] == 4 * (64 + 2) + 2 and picture.shape[1] > 10 * 64
    width, height = Image.open(outcome.directory / "curves.png").size
    assert width > 4 * 400 and height > 2 * 300, "a number is a column, guidance scale and steps are a row each"


def test_the_table_has_distance_class_accuracy_and_recall_under_their_names_above_real_images(own: Pipeline) -> None:
    outcome = swept(own, cfg=(1, 3), steps=(2,))
    heads = outcome.summary[""]
    assert heads.split("  ") == ["Fréchet distance", "class accuracy", "recall", "precision"]
    row = {name.partition("[")[0]: value for name, value in table(outcome)[1].items()}
    shown = outcome.summary["cfg 3, 2 steps"]
    names = ("frechet_distance", "class_accuracy", "recall", "precision")
    assert shown.split() == [f"{float(row[name]):.4g}" for name in names]
    assert shown[: heads.index("recall") + len("recall")].endswith(" " + shown.split()[2])
    assert outcome.facts["rows"][1]["cfg"] == 3 and len(outcome.summary["real images"].split()) == 4


def test_samplers_and_students_stand_in_one_table_with_what_an_image_costs(own: Pipeline, tmp_path: Path) -> None:
    own = own.copy(tmp_path)
    own.run("distill", guidance=(1.0, 2.0))
    heard = Heard()
    outcome = swept(own, heard, cfg=(1, 3), steps=(2,), sampler="ddim,heun")
    rows = [tuple(row[name] for name in ("by", "cfg", "evaluations")) for row in table(outcome)]
    guided = [("ddim", "1.0", "2"), ("ddim", "3.0", "4"), ("heun", "1.0", "3"), ("heun", "3.0", "6")]
    assert rows == [*guided, ("student", "1.0", "2")]
    assert all(float(row["seconds"]) > 0 for row in table(outcome))
    assert outcome.summary[""].endswith("evaluations  seconds") and "student, cfg 1, 2 steps" in outcome.summary
    assert any("left out at cfg 3" in note for note in heard.notes)
    width, height = Image.open(outcome.directory / "costs.png").size
    assert width > 2 * 400 and height > 2 * 300, "two numbers, over evaluations and over seconds"
    assert len(table(swept(own, cfg=(1, 3), steps=(2,), students=False))) == 2


def test_scales_of_autoguidance_stand_beside_drawing_without_it(own: Pipeline, tmp_path: Path) -> None:
    own = own.copy(tmp_path)
    shutil.rmtree(own.folder / "dit")
    own.run("train-dit", train__early=32)
    outcome = swept(own, cfg=(1, 2), steps=(2,), autoguide="early", autoguide_scale=(1, 10, 40))
    rows = table(outcome)
    ways = [(by, cfg) for by in ("ddim", "ddim, autoguide 10", "ddim, autoguide 40") for cfg in ("1.0", "2.0")]
    assert [(row["by"], row["cfg"]) for row in rows] == ways
    assert [row["evaluations"] for row in rows] == ["2", "4", "4", "8", "4", "8"]
    distances = {row["frechet_distance[classifier]"] for row in rows}
    assert len(distances) == 6, "each way draws other images"
    assert "ddim, autoguide 40, cfg 2, 2 steps" in outcome.summary
    assert [row["by"] for row in table(swept(own, cfg=(1,), steps=(2,), autoguide="early"))] == ["ddim, autoguide 2"]


def test_a_generator_without_steps_is_compared_over_guidance_alone(next_scale: Pipeline, tmp_path: Path) -> None:
    pipeline = next_scale.copy(tmp_path)
    outcome = swept(pipeline, cfg=(1, 2))
    rows = [(row["by"], row["cfg"], row["steps"], row["evaluations"]) for row in table(outcome)]
    assert rows == [("next-scale", "1.0", "3", "3"), ("next-scale", "2.0", "3", "6")]
    with pytest.raises(ConfigError, match="`steps=7` is not a setting of"):
        swept(pipeline, steps=(7,))


def test_samplers_are_compared_at_the_times_asked_for(own: Pipeline) -> None:
    made = swept(own, cfg=(1,), steps=(2,), sampler="heun,dpmpp-2m", spacing="flow", shift=3.0, students=False)
    rows = table(made)
    assert [(row["by"], row["evaluations"]) for row in rows] == [("heun", "3"), ("dpmpp-2m", "2")]
    inputs = [entry["path"] for name, entry in manifest(made.directory)["inputs"].items() if name.startswith("samples")]
    for path in inputs:
        sampling = manifest(made.directory / path)["facts"]["sampling"]
        assert (sampling["spacing"], sampling["shift"]) == ("flow", 3.0)


def test_scales_and_steps_that_are_named_twice_are_drawn_once(own: Pipeline) -> None:
    assert len(table(swept(own, cfg=(1, 3, 1), steps=(2, 2)))) == 2


def test_the_reference_is_looked_at_once_and_gives_the_numbers_of_an_evaluation_alone(own: Pipeline) -> None:
    heard = Heard()
    outcome = swept(own, heard, cfg=(1, 2, 3), steps=(3,), sampler="euler")
    assert heard.works.count("reference") == 1 and heard.works.count("samples") == 3
    alone = own.copy(own.runs_dir.parent / "alone")
    shutil.copytree(own.folder / "samples", alone.folder / "samples")
    evaluated = [path.parent for path in own.folder.glob("eval/*euler*/manifest.json")]
    assert len(evaluated) == len(table(outcome)) == 3
    for folder in evaluated:
        again = alone.run("eval", samples=folder.name, limit=10_000).directory
        for name in ("metrics.json", "nearest.png", "features.safetensors"):
            assert not (folder / name).exists() or (again / name).read_bytes() == (folder / name).read_bytes()


def test_accuracy_among_the_data_s_classes_stands_beside_that_among_all_of_an_extractor_s() -> None:
    rows = [{"recall[x]": 0.5, "class_accuracy[x]": 0.1, "class_accuracy_among_10[x]": 0.8, "frechet_distance[x]": 2.0}]
    assert [name.partition("[")[0] for name in shown_numbers(rows)] == [
        "frechet_distance",
        "class_accuracy",
        "class_accuracy_among_10",
        "recall",
    ]


@pytest.mark.parametrize(
    "settings", [{"cfg": ("x",)}, {"cfg": (-1,)}, {"steps": (1.5,)}, {"steps": (0,)}, {"sampler": "ddim,x"}]
)
def test_lists_of_what_is_no_number_or_no_sampler_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Sweep.model_validate(settings)


def test_the_command_that_verify_names_for_a_damaged_comparison_makes_it_again(own: Pipeline) -> None:
    folder = swept(own, cfg=(1, 3), steps=(2, 3), seed=3, reference=str(own.images)).directory
    before = (folder / "table.csv").read_bytes()
    (folder / "table.csv").write_bytes(before[:-9])
    with pytest.raises(DataError, match=r"table\.csv is damaged") as caught:
        verify.run(Verify(path=folder), Silent())
    command = str(caught.value.remedy).removeprefix("mend it: ")
    assert command.startswith("ldm sweep seed=3 cfg=1,3 steps=2,3 ")
    assert ldm([*shlex.split(command)[1:], "--quiet"]) == 0
    assert (folder / "table.csv").read_bytes() == before
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match="is unfinished") as caught:
        verify.run(Verify(path=folder), Silent())
    assert ldm([*shlex.split(str(caught.value.remedy).removeprefix("finish it: "))[1:], "--quiet"]) == 0
    assert verify.run(Verify(path=folder), Silent()).verdict == "is whole"
