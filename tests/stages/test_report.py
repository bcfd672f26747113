"""`ldm report`: what of a run is on the page, and what it says where there is little."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ldm.core.errors import DataError
from ldm.core.progress import Silent
from ldm.stages import report, story
from ldm.stages.configs.report import Report

sys.path.insert(0, str(Path(__file__).parent))
from pipeline_run import Pipeline

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def written(pipeline: Pipeline, **settings: object) -> str:
    config = Report.model_validate({"name": pipeline.name, "runs_dir": pipeline.runs_dir, **settings})
    report.run(config, Silent())
    return (config.out or pipeline.folder / "report.html").read_text()


@pytest.fixture(scope="module")
def swept(trained: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run with samples at three guidance scales, each judged, and a path from noise to image."""
    pipeline = trained.copy(tmp_path_factory.mktemp("report"))
    for cfg in (1, 2, 4):
        pipeline.run("sample", cfg=cfg, num=8, label=f"cfg-{cfg}")
        pipeline.run("eval", samples=f"cfg-{cfg}")
    pipeline.run("sample", num=1, progressive=True, label="path")
    return pipeline


def test_the_page_has_a_card_for_every_stage_and_a_chapter_for_all_there_is(swept: Pipeline) -> None:
    html = written(swept)
    cards = re.findall(r'<li class="(\w+)"><span class="state">\w+</span><b>([^<]+)</b>', html)
    assert cards == [(state, title) for state, title in cards if state == "complete"]
    assert [title for _, title in cards] == ["Autoencoder", "Latents", "Denoiser", "Classifier"]
    chapters = re.findall(r"<h2>([^<]+)</h2>", html)
    assert chapters == [
        "Samples",
        "From noise to image",
        "Numbers",
        "Against guidance and steps",
        "Drawn or remembered",
        "Read as",
        "Training the denoiser",
        "Training the autoencoder",
        "Training the classifiers",
    ]


def test_numbers_are_those_of_the_judgement_with_their_floor(swept: Pipeline) -> None:
    html = written(swept)
    (_, document), *_ = story.judgements(swept.folder)
    name = "frechet_distance[classifier]"
    row = (
        f"<tr><td>{name}</td><td>{document['numbers'][name]:.4g}</td><td>{document['real_against_real'][name]:.4g}</td>"
    )
    assert row in html


def test_judgements_that_differ_in_guidance_alone_are_drawn_over_it(swept: Pipeline) -> None:
    html = written(swept)
    assert "class_accuracy[classifier] over guidance scale: ddim, 3 steps" in html
    assert "over steps" not in html


def test_settings_are_shown_where_they_differ_from_the_defaults(swept: Pipeline) -> None:
    changed = story.folders(swept.folder)["dit"].changed
    assert changed["model.width"] == "32" and changed["train.images"] == "64"
    assert "train.lr" not in changed and "diffusion.prediction" not in changed


def test_time_and_speed_of_training_come_from_its_record(swept: Pipeline) -> None:
    stage = story.folders(swept.folder)["dit"]
    rates = [line["images_per_second"] for line in stage.lines if "images_per_second" in line]
    assert min(rates) <= stage.images_per_second <= max(rates)
    assert 64 / max(rates) <= stage.seconds <= 64 / min(rates)


def test_a_run_that_is_only_begun_is_shown_as_that(trained: Pipeline, tmp_path: Path) -> None:
    shutil.copytree(trained.folder, tmp_path / "begun")
    for stage in ("latents", "dit", "classifier", "samples", "eval", "sweep"):
        shutil.rmtree(tmp_path / "begun" / stage, ignore_errors=True)
    (tmp_path / "begun" / "vqvae" / "manifest.json").unlink()
    html = written(Pipeline(tmp_path, trained.images, "begun"), out=tmp_path / "elsewhere" / "a.html")
    assert '<li class="unfinished">' in html and '<li class="missing">' in html


def test_a_run_that_is_not_there_is_named_with_those_that_are(trained: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"nowhere does not exist.*there are .*{trained.name}"):
        written(Pipeline(trained.runs_dir, trained.images, "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no stage of a run"):
        written(Pipeline(tmp_path, trained.images, "empty"))


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_lays_the_page_out_without_overflow_and_loads_every_picture(
    swept: Pipeline, tmp_path: Path, width: int
) -> None:
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    measured = (
        "<script>addEventListener('load', () => { const broken = [...document.images].filter(i => !i.naturalWidth);"
        " document.title = `${document.documentElement.scrollWidth} ${innerWidth} ${broken.length}"
        " ${document.images.length}`; });</script></body>"
    )
    page = tmp_path / "page.html"
    page.write_text(written(swept).replace("</body>", measured))
    program = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--dump-dom"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    dom = subprocess.run([*program, page.as_uri()], env=environment, capture_output=True, text=True, timeout=120).stdout
    found = re.search(r"<title>(\d+) (\d+) (\d+) (\d+)</title>", dom)
    assert found is not None, dom[:500]
    page_width, window, broken, pictures = map(int, found.groups())
    assert page_width <= window and broken == 0 and pictures > 8
