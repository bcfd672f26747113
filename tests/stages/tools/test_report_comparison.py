"""`ldm report A B`: several runs on one page, whole or still being made."""

import re
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from ldm.core.errors import DataError
from ldm.core.progress import Silent
from ldm.stages.configs.report import Report
from ldm.stages.tools import report
from tests.support.pipeline_run import Pipeline


def page(runs_dir: Path, *names: str) -> str:
    config = Report(name=names[0], others=names[1:], runs_dir=runs_dir)
    report.run(config, Silent())
    return config.path.read_text()


@pytest.fixture(scope="module")
def two(trained: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs, which differ in the prediction, with samples of the same seeds and their numbers."""
    first = trained.copy(tmp_path_factory.mktemp("two"))
    second = Pipeline(first.runs_dir, first.images, "other")
    shutil.copytree(first.folder, second.folder)
    shutil.rmtree(second.folder / "dit")
    second.run("train-dit", diffusion__prediction="x0", train__images=32, preview__every=32)
    for run in (first, second):
        run.run("sample", label="s")
        run.run("eval", samples="s")
    return first.runs_dir


def test_settings_that_differ_are_side_by_side_and_others_are_left_out(two: Path, trained: Pipeline) -> None:
    html = page(two, trained.name, "other")
    table = html.partition('<th scope="col">Generator</th>')[2].partition("</table>")[0]
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td></tr>", table)
    assert ("diffusion.prediction", "v", "x0") in rows and ("train.images", "64", "32") in rows
    assert {key for key, *_ in rows} <= {"diffusion.prediction", "train.images", "preview.every"}


def test_numbers_made_alike_share_a_table_and_samples_of_the_same_seeds_a_row(two: Path, trained: Pipeline) -> None:
    html = page(two, trained.name, "other")
    table = html.partition('<th scope="col">samples</th>')[2].partition("</table>")[0]
    named = [row.partition(":")[0] for row in re.findall(r"<tr><td>(.*?)</td>", table)]
    assert named == [trained.name, "other", "real images"]
    samples = html.partition("<h2>Samples of the same seeds</h2>")[2].partition("</section>")[0]
    assert re.findall(r"<figcaption>(\w+): ddim, 3 steps", samples) == [trained.name, "other"]
    assert samples.count("flex-basis: calc(50.0%") == 2


def test_trainings_share_their_charts_and_previews_after_as_many_images_stand_beside_each_other(
    two: Path, trained: Pipeline
) -> None:
    html = page(two, trained.name, "other").partition("<h2>Training: generator</h2>")[2].partition("</section>")[0]
    losses = html.partition("<svg")[2].partition("</svg>")[0]
    assert f"{trained.name}: loss" in losses and "other: validation loss" in losses
    captions = re.findall(r"<figcaption>(.*?): samples after (\d+) images", html)
    assert captions == [(trained.name, "0"), ("other", "0"), (trained.name, "64"), ("other", "32")]


def test_a_run_that_is_still_trained_is_compared_by_what_there_is(two: Path, trained: Pipeline, tmp_path: Path) -> None:
    for name in (trained.name, "other"):
        shutil.copytree(two / name, tmp_path / name)
    for gone in ("samples", "eval"):
        shutil.rmtree(tmp_path / "other" / gone)
    (tmp_path / "other" / "dit" / "manifest.json").unlink()
    html = page(tmp_path, trained.name, "other")
    assert "<td>unfinished, 32 of 32</td>" in html and "<td>diffusion.prediction</td><td>v</td><td>x0</td>" in html


def test_a_run_that_is_missing_or_named_twice_is_refused(two: Path, trained: Pipeline) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist.*name one of the runs there are: other, "):
        page(two, trained.name, "nowhere")
    with pytest.raises(ValidationError, match="names a run twice"):
        Report(name="a", others=("a",))
    with pytest.raises(ValidationError, match="at most 6 runs"):
        Report(name="a", others=tuple("bcdefg"))
    with pytest.raises(ValidationError, match="must be a name"):
        Report(name="a", others=("../b",))
