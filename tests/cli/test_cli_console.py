"""What people and programs are shown, and where it goes."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from ldm.cli.console import Plain, open_console, outcome_lines, progress_line
from ldm.cli.events import Events
from ldm.cli.live import Live, _rows
from ldm.cli.pace import Pace, brief
from ldm.core.progress import Outcome, duration

ROOT = Path(__file__).resolve().parents[2]
OUTCOME = Outcome(
    Path("runs/x/dit"), False, {"images": "1,000", "psnr": "24 dB"}, [Path("a.png")], ["ldm sample --name x"]
)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_plain_line_is_written_once_an_interval() -> None:
    clock, log = Clock(), io.StringIO()
    console = Plain(log, io.StringIO(), interval=10, clock=clock)
    console.start("training", 1000, "images", done=200)
    for step in range(1, 26):
        clock.now += 1
        console.update(200 + 20 * step, loss=1 / step)
    console.finish()
    assert re.sub(r"  memory \d+\.\d GB\n", "\n", log.getvalue()).splitlines() == [
        "training: 1,000 images, 200 done before",
        "training: 400 of 1,000 images (40%)  20 images/s  30 s left  loss 0.1",
        "training: 600 of 1,000 images (60%)  20 images/s  20 s left  loss 0.05",
        "training: 700 images in 25 s (20 images/s)  loss 0.04",
    ]


def test_lines_come_rarer_in_work_that_takes_long() -> None:
    clock, log = Clock(), io.StringIO()
    console = Plain(log, io.StringIO(), interval=10, clock=clock)
    console.start("training", 10_000, "images")
    for step in range(1, 1201):
        clock.now += 1
        console.update(step)
    said = [int(line.split()[1].replace(",", "")) for line in log.getvalue().splitlines()[1:]]
    assert said == [*range(10, 600, 10), *range(650, 1201, 60)]


def test_a_last_batch_that_overshoots_is_not_more_than_all() -> None:
    pace = Pace("training", 2000, "images", clock=Clock())
    pace.update(2048, {})
    assert progress_line(pace).startswith("training: 2,048 of 2,000 images (100%)")


def test_short_work_inside_other_work_is_not_worth_a_line() -> None:
    clock, log = Clock(), io.StringIO()
    console = Plain(log, io.StringIO(), interval=10, clock=clock)
    console.start("training", 10, "images")
    console.start("validation", 5, "images")
    console.update(5)
    console.finish()
    console.update(10)
    console.finish()
    assert "validation" not in log.getvalue() and log.getvalue().count("\n") == 2


def test_speed_forgets_a_slow_start() -> None:
    clock = Clock()
    pace = Pace("t", 10_000, "images", clock=clock)
    clock.now += 100
    pace.update(10, {})
    for step in range(1, 61):
        clock.now += 1
        pace.update(10 + 50 * step, {})
    assert pace.rate == pytest.approx(50, rel=0.05)
    assert pace.seconds_left == pytest.approx((10_000 - 3010) / 50, rel=0.05)
    assert pace.mean_rate == pytest.approx(3010 / 160)


def test_speed_is_unknown_before_anything_moved() -> None:
    clock = Clock()
    pace = Pace("t", 10, "images", done=4, clock=clock)
    pace.update(4, {})
    assert pace.rate is None and pace.seconds_left is None and pace.mean_rate is None


def test_a_number_that_is_older_than_the_newest_says_from_when_it_is() -> None:
    pace = Pace("t", 10_000, "images", clock=Clock())
    pace.update(1_000, {"val_loss": 0.5, "loss": 0.6})
    assert pace.each_reading() == ["loss 0.6", "val_loss 0.5"]
    pace.update(2_000, {"loss": 0.4})
    assert pace.each_reading() == ["loss 0.4", "val_loss 0.5 at 1,000"]


def test_quiet_shows_only_warnings_and_the_folder() -> None:
    log, out = io.StringIO(), io.StringIO()
    console = Plain(log, out, quiet=True)
    console.start("t", 3, "images")
    console.update(3)
    console.note("hm")
    console.warn("look here")
    console.finish()
    console.outcome("sample", OUTCOME)
    assert (log.getvalue(), out.getvalue()) == ("warning: look here\n", f"{OUTCOME.directory}\n")


@pytest.mark.parametrize("console", [Plain, Live])
def test_a_warning_is_shown_once_however_often_it_is_given(console: type[Plain]) -> None:
    log = io.StringIO()
    shown = console(log, io.StringIO())
    for message in ("look here", "and there", "look here"):
        shown.warn(message)
    assert log.getvalue() == "warning: look here\nwarning: and there\n"


def test_the_outcome_says_what_was_written_and_what_to_run_next() -> None:
    assert outcome_lines("train-dit", OUTCOME) == [
        "ldm train-dit: wrote runs/x/dit",
        "  images   1,000",
        "  psnr     24 dB",
        "  picture  a.png",
        "next:",
        "  ldm sample --name x",
    ]
    assert outcome_lines("verify", Outcome(Path("l"), verdict="is whole")) == ["ldm verify: l is whole"]
    assert outcome_lines("encode", Outcome(Path("l"), True)) == ["ldm encode: l is complete already; nothing to do"]


def test_progress_goes_to_stderr_and_results_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with open_console() as console:
        console.start("t", 2, "images")
        console.finish()
        console.outcome("sample", OUTCOME)
    captured = capsys.readouterr()
    assert captured.err.startswith("t: 2 images") and captured.out.startswith("ldm sample: wrote")


def test_processes_but_the_first_tell_only_warnings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with open_console() as console:
        console.note("hm")
        console.warn("look here")
        console.outcome("sample", OUTCOME)
    captured = capsys.readouterr()
    assert (captured.err, captured.out) == ("warning: look here\n", "")


def test_every_event_is_one_line_of_json() -> None:
    clock, out = Clock(), io.StringIO()
    console = Events(out, clock=clock)
    console.start("t", 10, "images", done=2)
    for done in range(3, 11):
        clock.now += 0.5
        console.update(done, loss=float("nan"))
    console.note("two\nlines")
    console.warn("look here")
    console.finish()
    console.outcome("sample", OUTCOME)
    events = [json.loads(line, parse_constant=pytest.fail) for line in out.getvalue().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds == ["start", "progress", "progress", "progress", "progress", "note", "warning", "finish", "outcome"]
    assert events[0] == {"event": "start", "title": "t", "total": 10, "unit": "images", "done": 2}
    assert events[2]["rate"] == pytest.approx(2) and events[2]["numbers"] == {"loss": None}
    assert events[2]["memory_bytes"] > 1e6 and events[2]["gpu_memory_bytes"] is None
    assert events[-1]["directory"] == "runs/x/dit" and events[-1]["next_commands"] == ["ldm sample --name x"]


def test_quiet_events_are_warnings_only() -> None:
    out = io.StringIO()
    console = Events(out, quiet=True)
    console.start("t", 10, "images")
    console.warn("look here")
    console.finish()
    console.outcome("sample", OUTCOME)
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["warning"]


def laid_out(width: int) -> list[str]:
    """Return what a terminal of so many columns shows of a training that is under way."""
    clock = Clock()
    pace = Pace("training", 2_000_000, "images", clock=clock)
    clock.now += 60
    pace.update(1_024_000, {"val_loss": 0.5123, "frechet_distance": 12.34, "loss": 0.0625})
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=True)
    for row in _rows(pace, width, "memory 1.2 GB"):
        console.print(row)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    return [re.sub(r"\033\[[0-9;]*m", "", line).rstrip() for line in shown.splitlines()]


@pytest.mark.parametrize("width", [24, 40, 59, 60, 80, 120, 200])
def test_nothing_is_cut_however_narrow_the_terminal(width: int) -> None:
    rows = laid_out(width)
    assert all(len(row) <= width for row in rows)
    text = " ".join(" ".join(rows).split())
    for words in ("training ", "1,024,000/2,000,000 images", "17,067 images/s", "57 s left", "loss 0.0625"):
        assert words in text, (width, rows)
    assert "memory 1.2 GB" in text and "frechet_distance 12.34" in text
    assert ("━" in text) == (width >= 60)
    assert len(rows) <= {200: 1, 120: 2, 80: 2}.get(width, 8)


def test_loss_comes_before_what_is_measured_now_and_then() -> None:
    text = " ".join(laid_out(200))
    assert text.index("loss 0.0625") < text.index("val_loss 0.5123") < text.index("frechet_distance")


PROGRAM = """
import time
from ldm.cli.console import open_console
from ldm.cli.live import Live
with open_console() as console:
    console.start("training", 100, "images")
    console.start("validation", 5, "images")
    time.sleep(0.2)
    console.update(5, psnr=24.0)
    console.finish()
    console.note("a [note] in brackets")
    console.warn("look here")
    time.sleep(0.2)
    console.update(50, loss=0.5)
    console.finish()
"""


def on_a_terminal(columns: int, **variables: str) -> str:
    """Run the program with a terminal for its stderr and return what the terminal received."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm", **variables}
    environment = {k: v for k, v in environment.items() if v}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, stderr=theirs) as process:
        os.close(theirs)
        received = b""
        try:
            while chunk := os.read(ours, 65536):
                received += chunk
        except OSError:  # Linux's word for a terminal that was closed
            pass
    os.close(ours)
    assert process.returncode == 0
    return received.decode()


def test_on_a_terminal_the_bar_is_redrawn_and_gone_at_the_end() -> None:
    shown = on_a_terminal(100)
    assert re.search(r"memory \d+\.\d GB", shown)
    assert "\033[1A" in shown and "━" in shown and "50/100 images" in shown and "psnr 24" in shown
    assert "a [note] in brackets" in shown and "look here" in shown
    last = shown.rstrip().splitlines()[-1]
    assert "training: 50 images in" in last and "━" not in last


def test_no_color_and_narrow_terminals_are_respected() -> None:
    shown = on_a_terminal(40, NO_COLOR="1")
    assert "━" not in shown and "\033[3" not in shown and "50/100 images" in shown


COLOURED = {
    "FORCE_COLOR": "1",
    "CLICOLOR_FORCE": "1",
    "PY_COLORS": "1",
    "TTY_COMPATIBLE": "1",
    "TERM": "xterm-256color",
}
TINY = [
    *("--image-size", "16", "--batch-size", "8", "--images", "16", "--preset", "vqvae-xs", "--codebook-size", "8"),
    *("--device", "cpu", "model.channels=8", "pictures=1"),
]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["train-dit", "--help"], 0),
        (["recipes", "ls"], 0),
        (["config", "show", "sample"], 0),
        (["sample", "--stesp", "3"], 2),
        (["train-vqvae", "--data", "squares", *TINY], 0),
    ],
)
def test_pipes_and_files_get_no_escapes_even_where_colours_are_forced(
    arguments: list[str], code: int, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "squares").symlink_to(images)
    environment = {**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, **COLOURED, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ldm", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr.decode()
    assert done.stdout + done.stderr and b"\033" not in done.stdout + done.stderr
    written = [path for path in tmp_path.rglob("*") if path.suffix in (".txt", ".json", ".jsonl", ".yaml")]
    assert {path.name for path in written} >= ({"metrics.jsonl", "config.yaml"} if len(arguments) > 3 else set())
    assert not [path for path in written if b"\033" in path.read_bytes()]


def test_a_dumb_terminal_gets_plain_lines() -> None:
    assert "\033" not in on_a_terminal(80, TERM="dumb")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (9.4, "9.4 s"),
        (59.2, "59 s"),
        (312, "5 min 12 s"),
        (11_040, "3 h 4 min"),
        (190_000, "2 days 4 h"),
    ],
)
def test_durations_are_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(("value", "text"), [(12_800.4, "12,800"), (99.96, "100"), (4.0712, "4.07")])
def test_rates_have_about_three_digits(value: float, text: str) -> None:
    assert brief(value) == text
