"""Drawings of a file, and those that are typed: each as a command of its own draws it, the model loaded once."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ldm.cli import sample as sampling
from ldm.cli.layers import merged_config
from ldm.core.errors import ConfigError, DataError, Stopped
from ldm.core.pipeline.drawing import OpenedDenoiser
from ldm.core.progress import Outcome, Silent
from tests.support.pipeline_run import Pipeline, pngs

PLACE = ["--steps", "3", "--count", "2", "--device", "cpu", "--precision", "fp32"]


def place(pipeline: Pipeline) -> dict[str, str]:
    return {
        "name": pipeline.name,
        "runs_dir": str(pipeline.runs_dir),
        "steps": "3",
        "num": "2",
        "machine.device": "cpu",
        "machine.precision": "fp32",
    }


def run(pipeline: Pipeline, path: Path, **flags: str) -> Outcome:
    config = merged_config("sample", flags={**place(pipeline), "jobs": str(path), **flags}).config
    return sampling.run(config, Silent())  # type: ignore[arg-type]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The times that networks were loaded."""
    found: list[Any] = []
    load = OpenedDenoiser.load

    def counting(*given: Any) -> Any:
        found.append(given)
        return load(*given)

    monkeypatch.setattr(OpenedDenoiser, "load", counting)
    return found


def test_jobs_draw_what_their_options_draw_alone_into_a_folder_each_and_load_the_model_once(
    copied: Pipeline, tmp_path: Path, loads: list[Any]
) -> None:
    text = "# first\n--class red --cfg 2 --label reds\n\n--class 'blue' cfg=1 --seeds 3,8 # the second\n"
    outcome = run(copied, write(tmp_path / "jobs.txt", text))
    folders = [Path(folder) for folder in outcome.facts["folders"]]
    assert len(loads) == 1 and folders[0].name == "reds" and len(outcome.summary) == 2
    alone = copied.run("sample", classes="red", cfg=2, num=2, label="alone").directory
    assert pngs(folders[0]) == pngs(alone)
    assert sorted(pngs(folders[1])) == ["000003.png", "000008.png"]
    by_yaml = write(
        tmp_path / "jobs.yaml", "one: {classes: red, cfg: 2}\ntwo:\n  classes: blue\n  cfg: 1\n  seeds: 3,8\n"
    )
    assert [pngs(Path(f)) for f in run(copied, by_yaml).facts["folders"]] == [pngs(folder) for folder in folders]


def test_jobs_go_on_with_those_that_are_not_drawn_yet(
    copied: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = write(tmp_path / "jobs.txt", "--class red --label a\n--class blue --label b\n")

    class Stopping(Silent):
        def note(self, message: str) -> None:
            if message.startswith("2 of 2"):
                raise Stopped("stopped")

    config = merged_config("sample", flags={**place(copied), "jobs": str(jobs)}).config
    with pytest.raises(Stopped):
        sampling.run(config, Stopping())  # type: ignore[arg-type]
    first = (copied.folder / "samples" / "a" / "000000.png").stat().st_mtime_ns
    outcome = run(copied, jobs)
    assert outcome.summary["a"] == "complete already" and not outcome.already_complete
    assert (copied.folder / "samples" / "a" / "000000.png").stat().st_mtime_ns == first
    assert len(pngs(copied.folder / "samples" / "b")) == 2 and run(copied, jobs).already_complete


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("jobs.txt", "--class purple", "line 2: `classes=purple` is an unknown class"),
        ("jobs.txt", "--cfg -1", "line 2: cfg (--cfg) is -1"),
        ("jobs.txt", "--clas red", "line 2: no flag --clas; did you mean --class?"),
        ("jobs.txt", "--class 'red", "line 2: cannot be read: no closing quotation"),
        ("jobs.txt", "--label first", "line 2: its folder is that of"),
        ("jobs.txt", "--quiet", "line 2: a recipe, --quiet and --json are of the whole command"),
        ("jobs.txt", "--jobs more.txt", "line 2: `jobs` is of the whole command"),
        ("jobs.txt", "red", "line 2: argument 'red' is not of the form"),
        ("jobs.yaml", "b: {classes: red, cgf: 1}", "line 2: unknown setting cgf; did you mean cfg?"),
        ("jobs.yaml", "b: {classes: purple}", "line 2: `classes=purple` is an unknown class"),
        ("jobs.yaml", "b: 3", "line 2: b is a label"),
    ],
)
def test_a_wrong_job_is_named_with_its_line_before_anything_is_drawn(
    copied: Pipeline, tmp_path: Path, name: str, line: str, words: str
) -> None:
    first = "first: {classes: red}" if name.endswith("yaml") else "--class red --label first"
    with pytest.raises(ConfigError, match=re.escape(words)):
        run(copied, write(tmp_path / name, f"{first}\n{line}\n"))
    assert not (copied.folder / "samples").exists()


def test_a_file_of_jobs_that_is_missing_empty_or_no_text_is_named(copied: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    for path, words in (
        (tmp_path / "none.txt", "cannot be read"),
        (write(tmp_path / "empty.txt", "\n# nothing\n"), "lists nothing to draw"),
        (tmp_path / "bytes.txt", "not UTF-8"),
        (tmp_path, "is not a file"),
    ):
        with pytest.raises((ConfigError, DataError), match=words):
            run(copied, path)
    with pytest.raises(ConfigError, match="is one folder"):
        run(copied, write(tmp_path / "jobs.txt", "--class red\n"), label="all")


def test_lines_that_are_piped_in_are_drawn_and_a_wrong_one_is_reported_and_passed_over(
    copied: Pipeline, tmp_path: Path
) -> None:
    typed = "red --label typed\n\npurple\nhelp\nblue --seeds 5 --cfg 1 --label other\nquit\nred --label never\n"
    command = [sys.executable, "-m", "ldm", "sample", "--interactive", *PLACE]
    where = ["--name", copied.name, "--runs-dir", str(copied.runs_dir)]
    ended = subprocess.run([*command, *where], input=typed, capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout.count("ldm sample: wrote") == 3 and "2 times" in ended.stdout
    assert ended.stderr.count("error:") == 1 and "--class purple is an unknown class" in ended.stderr
    assert ended.stderr.count("type a class (blue, green, red)") == 2
    made = copied.folder / "samples"
    assert sorted(path.name for path in made.iterdir()) == ["other", "typed"]
    alone = copied.run("sample", classes="red", num=2, label="alone").directory
    assert pngs(made / "typed") == pngs(alone) and [*pngs(made / "other")] == ["000005.png"]
