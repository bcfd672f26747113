"""`ldm report`: what of a run is on the page, and what it says where there is little."""

import json
import os
import re
import shlex
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from ldm.cli import main
from ldm.core.errors import DataError
from ldm.core.progress import Silent, number_of
from ldm.stages.configs.report import Report
from ldm.stages.tools import report, summary
from ldm.stages.tools.reporting import charts, page
from tests.support.pipeline_run import Heard, Pipeline

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def written(pipeline: Pipeline, **settings: object) -> str:
    config = Report.model_validate({"name": pipeline.name, "runs_dir": pipeline.runs_dir, **settings})
    report.run(config, Silent())
    return (config.out or pipeline.folder / "report.html").read_text()


@pytest.fixture(scope="module")
def swept(trained: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run measured as it trained, with samples at three guidance scales, each evaluated, and a path from noise on."""
    pipeline = trained.copy(tmp_path_factory.mktemp("report"))
    shutil.rmtree(pipeline.folder / "dit")
    pipeline.run("train-dit", metrics__every=24, metrics__num=24, metrics__steps=2)
    for cfg in (1, 2, 4):
        pipeline.run("sample", cfg=cfg, num=8, label=f"cfg-{cfg}")
        pipeline.run("eval", samples=f"cfg-{cfg}")
    pipeline.run("sample", num=1, progressive=True, label="path")
    return pipeline


def shown_gaps(html: str) -> list[str]:
    """Return the commands under `What could be added`."""
    part = html.partition("<h2>What could be added</h2>")[2].partition("</section>")[0]
    return [unescape(re.sub(r"</?span>", "", command)) for command in re.findall(r"<pre>(.*?)</pre>", part)]


def test_the_page_has_a_card_for_every_stage_and_a_chapter_for_all_there_is(swept: Pipeline) -> None:
    html = written(swept)
    cards = re.findall(r'<li class="(\w+)"><b>([^<]+)</b>', html)
    assert cards == [(state, title) for state, title in cards if state == "complete"]
    assert [title for _, title in cards] == ["Autoencoder", "Latents", "Denoiser", "Samples", "Numbers", "Classifier"]
    chapters = re.findall(r"<h2>([^<]+)</h2>", html)
    assert chapters == [
        "Samples",
        "From noise to image",
        "Numbers",
        "Against guidance and steps",
        "Drawn or remembered",
        "Asked for and read",
        "Training the denoiser",
        "Training the autoencoder",
        "Training the classifiers",
        "What the numbers advise",
        "What could be added",
    ]


def test_what_is_not_there_is_named_with_a_command_that_is_one(trained: Pipeline, swept: Pipeline) -> None:
    missing = {
        pipeline: [shlex.split(command) for command in shown_gaps(written(pipeline))] for pipeline in (trained, swept)
    }
    bare = trained.copy(swept.runs_dir.parent / "bare")
    commands = [shlex.split(command) for command in shown_gaps(written(bare))]
    assert [words[1] for words in commands] == ["sample", "sample", "eval", "sweep", "sweep", "eval", "train-dit"]
    assert "--progressive" in commands[1] and "--cfg" in commands[3] and "reconstructions" in commands[5]
    assert [words[1] for words in missing[swept]] == ["sweep", "eval"] and "--steps" in missing[swept][0]
    for words in (*commands, *missing[swept]):
        assert words[0] == "ldm" and str(bare.folder.name) in words
        assert parsed(words[1:]) == words[1]


def parsed(words: list[str]) -> str:
    """Let the command line read a command, as far as running it. Returns which command it was."""
    read: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "run_stage", lambda command, given: read.append(command) or 0)
        assert main.run(words) == 0
    return read[0]


def test_a_begun_run_is_shown_its_next_stage_only(trained: Pipeline, tmp_path: Path) -> None:
    pipeline = trained.copy(tmp_path)
    shutil.rmtree(pipeline.folder / "dit")
    (pipeline.folder / "latents" / "manifest.json").unlink()
    (command,) = shown_gaps(written(pipeline))
    assert command.startswith("ldm encode ") and f"-c {pipeline.folder}/latents/config.yaml" in command


def test_a_stage_that_lies_in_another_run_is_not_asked_for(trained: Pipeline, tmp_path: Path) -> None:
    pipeline = trained.copy(tmp_path)
    shutil.rmtree(pipeline.folder / "vqvae")
    assert [shlex.split(command)[1] for command in shown_gaps(written(pipeline))][:2] == ["sample", "sample"]
    shutil.rmtree(pipeline.folder / "dit")
    (command,) = shown_gaps(written(pipeline))
    assert shlex.split(command)[1] == "train-dit"


def test_a_begun_classifier_goes_on_with_its_settings_and_no_more_steps_are_asked_for_than_there_are(
    trained: Pipeline, tmp_path: Path
) -> None:
    pipeline = trained.copy(tmp_path)
    (pipeline.folder / "classifier" / "manifest.json").unlink()
    shutil.rmtree(pipeline.folder / "dit")
    pipeline.run("train-dit", diffusion__num_steps=12)
    commands = shown_gaps(written(pipeline))
    (classifier,) = [command for command in commands if "train-classifier" in command]
    assert f"-c {pipeline.folder}/classifier/config.yaml" in classifier
    assert any(command.endswith("--steps 5,10") for command in commands)


def test_numbers_along_the_training_are_drawn_with_their_conditions_and_the_best_is_named(swept: Pipeline) -> None:
    html = written(swept)
    assert "Fréchet distance of samples along the way: dpmpp-2m, 2 steps, cfg 3; 24 against 97 of" in html
    assert re.search(r"<small>best after \d+ images: Fréchet distance [\d.]+</small>", html)
    assert "Class accuracy of samples along the way: under the same conditions" in html


def test_samples_evaluated_alike_stand_side_by_side_above_real_images(swept: Pipeline) -> None:
    html = written(swept)
    table = html.partition('<th scope="col">samples</th>')[2].partition("</table>")[0]
    rows = re.findall(r"<tr><td>(.*?)</td>", table)
    assert rows == ["ddim, 3 steps, cfg 1", "ddim, 3 steps, cfg 2", "ddim, 3 steps, cfg 4", "real images"]
    assert html.count("of 3 sets the one nearest to its reference") == 2, "one picture and its description"


def test_numbers_are_those_of_the_evaluation_with_their_floor(swept: Pipeline) -> None:
    html = written(swept)
    first, *_ = summary.read(swept.folder, pytest.fail).evaluations
    name = "frechet_distance[classifier]"
    row = f"<tr><td>{name}</td><td>{first.numbers[name]:.4g}</td><td>{first.floor[name]:.4g}</td>"
    assert row in html


def test_evaluations_that_differ_in_guidance_alone_are_drawn_over_it(swept: Pipeline) -> None:
    html = written(swept)
    assert "Fréchet distance over guidance scale: ddim; 24 against 97 of" in html
    assert "Class accuracy over guidance scale: under the same conditions" in html
    assert "over steps" not in html


def test_samples_at_several_scales_come_first_and_others_when_asked_for(swept: Pipeline) -> None:
    chapter = written(swept).partition("<h2>Samples</h2>")[2].partition("</section>")[0]
    shown, _, folded = chapter.partition("<details>")
    assert re.findall(r'alt="(.*?)"', shown) == [f"ddim, 3 steps, cfg {scale}" for scale in (1, 2, 4)]
    assert re.findall(r'alt="(.*?)"', folded) == ["ddim, 3 steps, cfg 3"]


def test_samples_and_numbers_have_their_inputs_settings_time_and_speed_on_their_cards(swept: Pipeline) -> None:
    cards = dict(re.findall(r"<b>(\w+)</b>(.*?)</li>", written(swept), re.DOTALL))
    assert "from denoiser dit" in cards["Samples"] and "cfg=1 | 2 | 4" in cards["Samples"]
    assert "from samples of 3 folders" in cards["Numbers"] and "from extractor classifier" in cards["Numbers"]
    for name in ("Latents", "Samples", "Denoiser"):
        assert re.search(r"<small>\d[^<]* s, [\d,.]+ images/s</small>", cards[name]), cards[name]
    assert re.search(r"<small>\d[^<]* s</small>", cards["Numbers"]), cards["Numbers"]


def test_what_odd_lines_of_a_record_say_of_measurements_is_left_out(trained: Pipeline, tmp_path: Path) -> None:
    pipeline = trained.copy(tmp_path)
    conditions = {"extractor": "classifier", "n_samples": 8, "n_reference": 9}
    odd: list[dict[str, object]] = [
        {"images": 8, "conditions": {"extractor": 3}, "recall[classifier]": 1.0},
        {"images": 16, "conditions": {"sampling": {"sampler": "ddim"}}},
        {"images": 24, "conditions": conditions, "recall[classifier]": {}, "precision[classifier]": 0.5},
        {"images": 32, "conditions": conditions, "recall[classifier]": 0.25, "real_against_real": 7},
    ]
    with (pipeline.folder / "dit" / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in odd)
    drawn = charts.measurements(summary.read(pipeline.folder, pytest.fail).stages["denoiser"])
    assert [picture.caption.partition(" of ")[0] for picture in drawn] == ["Recall", "Precision"]


def test_samples_of_another_denoiser_are_not_on_the_same_line(swept: Pipeline, tmp_path: Path) -> None:
    pipeline = swept.copy(tmp_path)
    pipeline.run("sample", cfg=1, num=8, label="one", checkpoint="best")
    pipeline.run("eval", samples="one")
    pipeline.run("sample", cfg=4, num=8, label="four")
    pipeline.run("eval", samples="four")
    pipeline.run("sample", cfg=1, num=8, label="elsewhere", seed=5)
    pipeline.run("eval", samples="elsewhere")
    assert "over guidance scale" not in written(pipeline)
    assert "checkpoint best, after" in written(pipeline)


def test_settings_are_shown_where_they_differ_from_the_defaults(swept: Pipeline) -> None:
    changed = summary.changed(summary.read(swept.folder, pytest.fail).stages["denoiser"])
    assert changed["model.width"] == "32" and changed["train.images"] == "64"
    assert "train.lr" not in changed and "diffusion.prediction" not in changed


def test_one_setting_and_one_image_are_written_in_the_singular(swept: Pipeline) -> None:
    card = page.Card("Latents", "complete", (), {"shard_size": "16"})
    html = page.render(page.Page("one", "", [card], [], []))
    assert "1 setting differs from the default<" in html and "settings differ" not in html
    assert [number_of(count, noun) for count, noun in ((1, "image"), (2000, "image"), (1, "class"), (2, "class"))] == [
        "1 image",
        "2,000 images",
        "1 class",
        "2 classes",
    ]


def test_time_and_speed_of_training_come_from_its_record(swept: Pipeline) -> None:
    stage = summary.read(swept.folder, pytest.fail).stages["denoiser"]
    rates = [line["images_per_second"] for line in stage.lines if "images_per_second" in line]
    assert min(rates) <= (summary.images_per_second(stage) or 0) <= max(rates)
    assert 64 / max(rates) <= (summary.seconds(stage) or 0) <= 64 / min(rates)


def test_a_damaged_picture_is_left_out_and_named(trained: Pipeline, tmp_path: Path) -> None:
    pipeline = trained.copy(tmp_path)
    (last := sorted((pipeline.folder / "vqvae" / "reconstructions").glob("*.png"))[-1]).write_bytes(
        last.read_bytes()[:200]
    )
    heard = Heard()
    report.run(Report.model_validate({"name": pipeline.name, "runs_dir": pipeline.runs_dir}), heard)
    (warning,) = heard.warnings
    assert str(last) in warning and "above their reconstructions" not in (pipeline.folder / "report.html").read_text()


def test_a_run_that_is_only_begun_is_shown_as_that(trained: Pipeline, tmp_path: Path) -> None:
    shutil.copytree(trained.folder, tmp_path / "begun")
    for stage in ("latents", "dit", "classifier", "samples", "eval", "sweep"):
        shutil.rmtree(tmp_path / "begun" / stage, ignore_errors=True)
    (tmp_path / "begun" / "vqvae" / "manifest.json").unlink()
    html = written(Pipeline(tmp_path, trained.images, "begun"), out=tmp_path / "elsewhere" / "a.html")
    assert '<li class="unfinished">' in html and '<li class="missing">' in html


def test_a_run_that_is_not_there_is_named_with_those_that_are(trained: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"nowhere does not exist.*name one of the runs there are: .*{trained.name}"):
        written(Pipeline(trained.runs_dir, trained.images, "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no stage of a run"):
        written(Pipeline(tmp_path, trained.images, "empty"))


def browse(page: Path, home: Path, *flags: str) -> str:
    """Let a browser without a window do something with a page, and return what it wrote."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    quiet += ["--disable-background-networking", "--disable-component-update"]
    program = [browser, *quiet, f"--user-data-dir={home / 'profile'}", *flags, page.as_uri()]
    environment = {**os.environ, "HOME": str(home)}
    return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300, check=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1200, False), (1200, True)])
def test_a_browser_lays_the_page_out_without_overflow_and_loads_every_picture(
    swept: Pipeline, tmp_path: Path, width: int, dark: bool
) -> None:
    """In a frame of that width, as a browser's own window is never as narrow as a phone."""
    measured = (
        "<script>addEventListener('load', () => { const broken = [...document.images].filter(i => !i.naturalWidth);"
        " parent.postMessage(`${document.documentElement.scrollWidth} ${innerWidth} ${broken.length}"
        " ${document.images.length} ${getComputedStyle(document.body).backgroundColor}`, '*'); });</script></body>"
    )
    (tmp_path / "page.html").write_text(written(swept).replace("</body>", measured))
    frame = tmp_path / "frame.html"
    listening = "<script>addEventListener('message', event => { document.title = event.data; });</script>"
    frame.write_text(f'<title></title>{listening}<iframe src="page.html" width="{width}" style="border: 0"></iframe>')
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    dom = browse(frame, tmp_path, "--window-size=1400,900", "--virtual-time-budget=20000", *scheme, "--dump-dom")
    found = re.search(r"<title>(\d+) (\d+) (\d+) (\d+) rgb\((\d+), ", dom)
    assert found is not None, dom[:500]
    page_width, window, broken, pictures, red = map(int, found.groups())
    assert window == width and page_width <= window and broken == 0 and pictures > 8
    assert (red < 100) == dark


@pytest.mark.slow
def test_a_browser_prints_the_page(swept: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(written(swept))
    browse(tmp_path / "page.html", tmp_path, f"--print-to-pdf={tmp_path / 'page.pdf'}")
    pages = len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes()))
    assert 2 <= pages <= 20
