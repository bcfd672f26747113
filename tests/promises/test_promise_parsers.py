"""R18: harmed files end in our error, in time and in little memory.

Each is read by all that reads its kind, in a process of its own: within 5 s of the processor, and within 1 GB beyond
what the process has when it has read whole files. The quick form harms each kind in the same few ways every time,
and tries all files that once went wrong; the full form draws new ones, and each of its failures says its seed.
"""

import json
from pathlib import Path

import pytest

from tests.support.fuzzing import ALL
from tests.support.launcher import Launcher
from tests.support.ledger import Trials

CORPUS = Path(__file__).with_name("corpus")
INDEX = json.loads((CORPUS / "index.json").read_bytes())
LONG = 4 * 3600.0


@pytest.mark.promise("R18", quick=8, full=10_000)
@pytest.mark.parametrize("parser", sorted(ALL))
def test_harmed_files_end_in_our_error_in_time_and_in_little_memory(
    parser: str, trials: Trials, ldm: Launcher, tmp_path: Path
) -> None:
    form, report = "full" if trials.full else "quick", tmp_path / "report"
    words = (parser, tmp_path / "work", form, trials.seed, trials.count, report)
    ended = ldm.start(*words, function="tests.support.fuzzing:fuzz").wait(LONG)
    assert report.exists(), f"the process ended in a trial: {ended}"
    found = json.loads(report.read_text())
    trials.tried, trials.held = found["tried"], found["tried"] - (found["wrong"] is not None)
    assert found["wrong"] is None, found["wrong"]


@pytest.mark.promise("R18")
@pytest.mark.parametrize("form", ["quick", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("parser", sorted({entry["parser"] for entry in INDEX}))
def test_what_once_ended_in_a_traceback_no_longer_does(parser: str, form: str, ldm: Launcher, tmp_path: Path) -> None:
    kept = [(entry["file"], CORPUS / entry["kept"]) for entry in INDEX if entry["parser"] == parser]
    words = [word for pair in kept for word in pair]
    ended = ldm.start(
        parser, tmp_path / "work", form, tmp_path / "report", *words, function="tests.support.fuzzing:replay"
    ).wait(LONG)
    found = [json.loads(line) for line in (tmp_path / "report").read_text().splitlines()]
    assert ended.code == 0 and {path for path, _ in found} == {str(path) for _, path in kept}, ended
    assert [(path, wrong) for path, wrong in found if wrong is not None] == []


def test_every_kept_file_is_in_the_index_with_a_line_on_what_it_is() -> None:
    listed = [entry["kept"] for entry in INDEX]
    held = {path.relative_to(CORPUS).as_posix() for path in CORPUS.rglob("*") if path.is_file()} - {"index.json"}
    assert set(listed) == held and len(set(listed)) == len(listed)
    assert all(entry["parser"] in ALL and entry["about"] and "\n" not in entry["about"] for entry in INDEX)
    assert all(entry["file"] in ALL[entry["parser"]].harms for entry in INDEX)
    assert max(path.stat().st_size for path in CORPUS.rglob("*")) < 100_000
