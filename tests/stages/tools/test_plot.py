"""`ldm plot` as a command: what it takes, what it refuses, what it writes."""

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from typer.testing import CliRunner

from ldm.cli.main import app, run
from ldm.core.diffusion import schedules
from ldm.core.errors import ConfigError, DataError
from ldm.core.progress import Silent
from ldm.stages.configs.plot import DEFAULT_SCHEDULES, SCHEDULES, USED, Plot
from ldm.stages.tools import plot
from tests.support.pipeline_run import Pipeline

WHAT = get_args(Plot.model_fields["what"].annotation)


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def test_every_picture_has_its_settings_and_its_function() -> None:
    assert set(WHAT) == set(USED) == set(plot.PICTURES)
    assert (*schedules.BETAS, "rectified-flow") == SCHEDULES
    assert all(name in USED[what] for what in DEFAULT_SCHEDULES for name in ("schedule",))


def test_help_lists_it_with_every_picture_and_loads_no_heavy_library() -> None:
    assert "plot" in CliRunner().invoke(app, ["--help"]).stdout
    page = CliRunner().invoke(app, ["plot", "--help"], terminal_width=200).stdout
    assert all(word in page for word in (*WHAT, *SCHEDULES, "--out", "--data", "--times"))
    program = (
        "import sys; from ldm.cli.main import run; run(['plot', '--help']); "
        "loaded = {'torch', 'numpy', 'matplotlib', 'PIL'} & set(sys.modules); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("what", ["schedule", "weights", "noising"])
def test_a_picture_is_written_where_it_is_said_to_be(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["plot", what]) == 0
    assert f"plots/{what}.png" in capsys.readouterr().out
    drawn = picture(tmp_path / "plots" / f"{what}.png")
    assert drawn.ndim == 3 and min(drawn.shape[:2]) > 200 and drawn.std() > 5


def test_the_schedules_named_are_those_drawn(tmp_path: Path) -> None:
    drawn = []
    for names in ("cosine", "cosine,rectified-flow", "cosine, rectified-flow,cosine"):
        path = tmp_path / "new" / f"{len(drawn)}.png"
        assert run(["plot", "noising", "--schedule", names, "--out", str(path), "--quiet"]) == 0
        drawn.append(picture(path))
    one, two, again = drawn
    assert two.shape[0] > 1.5 * one.shape[0]
    np.testing.assert_array_equal(two, again)
    assert Plot(what="schedule", schedule="linear,linear+zero").schedules == {
        "linear": ("linear", False),
        "linear+zero": ("linear", True),
    }


def test_noising_shows_as_many_images_at_as_many_times_as_asked(images: Path, tmp_path: Path) -> None:
    def shape(**settings: Any) -> tuple[int, int]:
        config = Plot(what="noising", data=str(images), out=tmp_path / "n.png", schedule="linear", **settings)
        plot.run(config, Silent())
        height, width, _ = picture(config.path).shape
        return height, width

    small = shape(times=(0.0, 0.5), image_size=16)
    more_times = shape(times=(0.0, 0.5, 1.0), image_size=16)
    more_images = shape(times=(0.0, 0.5), image_size=16, count=3)
    assert more_times[0] == small[0] and more_times[1] == small[1] + 96 + 2
    assert more_images[1] == small[1] and more_images[0] > 2.5 * small[0]


def test_denoising_draws_a_trained_run_and_the_same_picture_again(trained: Pipeline) -> None:
    config = Plot(
        what="denoising", name=trained.name, runs_dir=trained.runs_dir, times=(0.0, 0.5, 1.0), steps=2, cfg=2.0
    )
    outcome = plot.run(config, Silent())
    (path,) = outcome.pictures
    assert path == trained.folder / "plots" / "denoising.png"
    drawn = picture(path)
    plot.run(config, Silent())
    np.testing.assert_array_equal(picture(path), drawn)
    plot.run(config.model_copy(update={"seed": 1}), Silent())
    assert not np.array_equal(picture(path), drawn)


def test_a_run_that_is_not_there_is_reported_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ldm train-dit") as caught:
        plot.run(Plot(what="denoising", runs_dir=tmp_path), Silent())
    assert "dit" in caught.value.message
    assert run(["plot", "denoising", "--runs-dir", str(tmp_path), "--quiet"]) == 3


def test_latents_made_anew_since_are_refused(copied: Pipeline) -> None:
    copied.run("encode", replace=True, shard_size=8)
    with pytest.raises(DataError, match="latents"):
        plot.run(Plot(what="denoising", name=copied.name, runs_dir=copied.runs_dir), Silent())


def test_guidance_without_a_null_class_and_too_many_steps_are_refused(copied: Pipeline) -> None:
    with pytest.raises(ConfigError, match=r"steps=1001` is outside"):
        plot.run(Plot(what="denoising", name=copied.name, runs_dir=copied.runs_dir, steps=1001), Silent())
    copied.run("train-dit", replace=True, label_dropout=0.0)
    with pytest.raises(ConfigError, match=r"cfg=2` needs a null class"):
        plot.run(Plot(what="denoising", name=copied.name, runs_dir=copied.runs_dir, cfg=2.0), Silent())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "ldm plot needs WHAT"),
        (
            ["schedules"],
            "what is schedules: must be one of schedule, weights, noising, denoising, iterative, samplers, guidance; ",
        ),
        (["schedule", "--schedule", "cosin"], "cosin is not one of linear, scaled-linear"),
        (["schedule", "--schedule", "rectified-flow+zero"], "always ends in zero signal"),
        (["schedule", "--schedule", ","], "--schedule is empty"),
        (["weights", "--schedule", "linear,cosine"], "`ldm plot weights` shows one schedule, not linear,cosine"),
        (["schedule", "--cfg", "3"], "--cfg is not a setting of `ldm plot schedule`"),
        (["noising", "--name", "mine"], "--name is not a setting of `ldm plot noising`"),
        (["iterative", "--steps", "9"], "--steps is not a setting of `ldm plot iterative`"),
        (["denoising", "--schedule", "linear"], "--schedule is not a setting of `ldm plot denoising`"),
        (["schedule", "--out", "picture.jpg"], "pictures are PNG"),
        (["noising", "--times", "0,2"], "times (--times) is 2: must be at least 0 and at most 1"),
        (["noising", "--times", "0,half"], "must be numbers, as in 0.2,0.5,0.8"),
        (["noising", "--count", "0"], "must be at least 1"),
        (["noising", "more"], "is not of the form section.key=value"),
    ],
)
def test_what_cannot_be_drawn_is_reported_in_a_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["plot", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_refused_before_any_data_is_read(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (4, 4)).save(photo)
    before = photo.read_bytes()
    with pytest.raises(ConfigError, match=r"photo\.png` exists and was not drawn by ldm plot"):
        plot.run(Plot(what="noising", data=str(tmp_path / "nowhere"), out=photo), Silent())
    assert photo.read_bytes() == before
    with pytest.raises(DataError, match="nowhere does not exist"):
        plot.run(Plot(what="noising", data=str(tmp_path / "nowhere"), out=tmp_path / "n.png"), Silent())


def test_settings_are_checked_without_a_command_line_too() -> None:
    with pytest.raises(ValidationError, match="is not a setting"):
        Plot(what="weights", seed=1)
    assert Plot(what="schedule").path == Path("plots/schedule.png")
    assert Plot(what="denoising", name="fish").path == Path("runs/fish/plots/denoising.png")
