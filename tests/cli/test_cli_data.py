"""`ldm data`: its two commands are found, understood, and end as what they found asks for."""

import json
from pathlib import Path

import pytest

from ldm.cli.main import run
from tests.support.pictured import jpeg, landscape, png


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes, a copy across them."""
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        file = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(landscape(number)))
    (tmp_path / "photos" / "dog" / "copy.jpg").write_bytes(jpeg(landscape(0)))
    return Path("photos")


def test_the_menu_shows_both_and_the_root_shows_the_menu(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "inspect" in shown and "dedup" in shown and "ldm data dedup photos/" in shown
    assert run(["--help"]) == 0
    assert "\n  data " in capsys.readouterr().out


@pytest.mark.parametrize("command", ["inspect", "dedup"])
def test_help_shows_how_the_command_is_typed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: ldm data {command} SOURCE [OPTIONS]") and "--sheet PATH" in shown


def test_inspect_ends_with_0_and_names_its_picture(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "inspect", "photos", "--image-size", "32", "--sheet", "sheet.png"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("ldm data inspect: photos can be trained on: 9 images of 2 classes")
    assert "sheet.png" in shown and Path("sheet.png").is_file()


def test_inspect_ends_with_3_where_training_would_stop_and_tells_each_broken_file_as_an_event(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("void", "null"):
        (photos / "cat" / f"{name}.png").write_bytes(b"")
    assert run(["data", "inspect", "photos", "--json"]) == 3
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    warnings = [event["message"] for event in events if event["event"] == "warning"]
    assert warnings == ["photos: cat/null.png is empty", "photos: cat/void.png is empty"]
    assert events[-1]["event"] == "outcome" and events[-1]["command"] == "data inspect"
    assert [broken["name"] for broken in events[-1]["facts"]["broken"]] == ["cat/null.png", "cat/void.png"]
    assert run(["data", "inspect", "photos"]) == 3
    assert "would stop training" in capsys.readouterr().out


def test_dedup_tells_groups_and_writes_what_training_reads(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = ["--out", "twins.csv", "--exclude-out", "twins.txt"]
    assert run(["data", "dedup", "photos", *lists]) == 0
    shown = capsys.readouterr().out
    assert "photos holds 1 group of copies among 9 images" in shown
    assert "cat/0.png = dog/copy.jpg" in shown and "ldm train-vqvae --data photos --exclude twins.txt" in shown
    assert "dog/copy.jpg" in Path("twins.txt").read_text()
    assert run(["data", "dedup", "photos", "--exclude", "twins.txt"]) == 0
    assert "holds no copies among 8 images" in capsys.readouterr().out
    assert run(["config", "show", "train-vqvae", "--data", "photos", "--exclude", "twins.txt"]) == 0
    assert "exclude: twins.txt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["inspect"], 2, "ldm data inspect needs SOURCE"),
        (["inpsect", "photos"], 2, "no command inpsect; did you mean inspect?"),
        (["inspect", "photos", "--image-sizes", "3"], 2, "no flag --image-sizes; did you mean --image-size?"),
        (["inspect", "nowhere"], 3, "nowhere does not exist"),
        (["inspect", "photos", "--sheet", "sheet.jpg"], 2, "ends in .png"),
        (["inspect", "photos", "--sheet", "photos"], 2, "ends in .png"),
        (["dedup", "photos", "--sheet", "nowhere/sheet.png"], 2, "nowhere is not a folder"),
        (["dedup", "photos", "--out", "list.xlsx"], 2, "ends in .jsonl or .csv"),
        (["dedup", "photos", "--bits", "16"], 2, "bits (--bits) is 16: must be at least 0 and at most 15"),
        (["dedup", "photos", "--likeness", "2"], 2, "must be greater than 0 and at most 1"),
        (["dedup", "photos", "--features", "mobilenet-v2"], 2, "--features mobilenet-v2 needs --weights"),
        (["dedup", "photos", "--weights", "w"], 2, "--weights has no effect without --features"),
        (["dedup", "photos", "--features", "inception", "--weights", "w"], 2, "needs --feature-distance"),
        (["dedup", "photos", "--exclude", "none.txt"], 3, "none.txt cannot be read"),
        (["dedup", "photos", "-c", "mnist"], 2, "-c"),
    ],
)
def test_what_cannot_be_done_is_reported_with_what_to_do(
    photos: Path, arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path().rglob("*"))
    assert run(["data", *arguments]) == code
    captured = capsys.readouterr()
    assert says in captured.err and " hint: " in captured.err and captured.out == ""
    assert sorted(Path().rglob("*")) == before
