"""R30: signals at any moment, folders that vanish, special files in a run, and outputs that nobody can read."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.core.runs.lock import LOCK
from ldm.core.runs.run import MANIFEST
from tests.support.forgery import RUN, copy_run
from tests.support.interrupted import ANAGRAM, EDIT, ENCODE, INTERPOLATE, SAMPLE, Stage
from tests.support.launcher import ROOT, Command, Launcher
from tests.support.ledger import Trials
from tests.support.small_runs import training

COMMANDS = {
    "train-vqvae": training("train-vqvae", 8, 4),
    "encode": ENCODE,
    "train-dit": training("train-dit", 8, 4),
    "sample": SAMPLE,
    "edit": EDIT,
}
RARELY = {
    "train-classifier": training("train-classifier", 8, 4),
    "train-var": training("train-var", 8, 4),
    "distill": training("distill", 8, 4),
    "anagram": ANAGRAM,
    "interpolate": INTERPOLATE,
}
EACH = [*COMMANDS, *(pytest.param(name, marks=pytest.mark.slow) for name in RARELY)]
SPECIAL = (
    *("dit/manifest.json", "dit/identity.json", "dit/config.yaml", "dit/.lock", "dit/metrics.jsonl"),
    *("dit/final/config.json", "dit/final/model.safetensors", "dit/loss.png", "latents/shard-000000.tar"),
)
READERS = (["verify", "{run}"], ["report", RUN], ["inspect", "{run}"], ["sample", "--name", RUN, "--count", "1"])
FIRST = (  # of the quick tests: file, command, whether it is a device
    *(("dit/config.yaml", READERS[0], False), ("dit/metrics.jsonl", READERS[1], False)),
    *(("dit/.lock", READERS[0], False), ("dit/metrics.jsonl", READERS[1], True)),
)


def started(prepared: Stage, runs_dir: Path) -> Command:
    """Start a stage, and return once it has its folder."""
    command = prepared.start(runs_dir)
    while not (prepared.folder(runs_dir) / LOCK).exists():
        time.sleep(0.0005)
    return command


@pytest.mark.promise("R30", quick=1, full=30)
@pytest.mark.parametrize("command", EACH)
def test_a_signal_at_any_moment_ends_a_stage_with_75_and_it_goes_on(
    command: str, trials: Trials, stage: Callable[..., Stage]
) -> None:
    prepared = stage(*{**COMMANDS, **RARELY}[command])
    for random in trials:
        name = "SIGHUP" if random.random() < 0.5 else "SIGTERM"
        runs_dir = prepared.fresh()
        running = started(prepared, runs_dir)
        time.sleep(random.uniform(0, prepared.seconds) * (0.3 if random.random() < 0.5 else 1))
        running.send(signal.Signals[name])
        ended = running.wait()
        is_done = (prepared.folder(runs_dir) / MANIFEST).exists()
        assert ended.code == 75 or (is_done and ended.code in (0, -signal.Signals[name])), ended
        assert "Traceback" not in ended.err
        assert ended.code != 75 or f"stopped by {name}" in ended.err
        again = prepared.succeed(runs_dir)
        assert "error" not in again.err
        shutil.rmtree(runs_dir)


@pytest.mark.promise("R30", quick=1, full=15)
@pytest.mark.parametrize("command", EACH)
def test_a_folder_that_vanishes_under_a_stage_is_one_line_and_nothing_is_made_anew(
    command: str, trials: Trials, stage: Callable[..., Stage], tmp_path: Path
) -> None:
    prepared = stage(*{**COMMANDS, **RARELY}[command])
    for number, random in enumerate(trials):
        runs_dir = prepared.fresh()
        running = started(prepared, runs_dir)
        time.sleep(random.uniform(0, prepared.seconds))
        folder = prepared.folder(runs_dir)
        gone = folder if random.random() < 0.5 else runs_dir / "tiny"
        away = tmp_path / str(number)
        gone.rename(away)
        ended = running.wait()
        assert "Traceback" not in ended.err and not gone.exists(), ended
        if ended.code == 0:  # It had ended before.
            assert (away / folder.relative_to(gone) / MANIFEST).exists()
            continue
        assert ended.code == 2 and ended.err.count("error:") == 1, ended
        assert " is gone: it was moved or deleted while this command wrote it" in ended.err
        away.rename(gone)
        prepared.finish(runs_dir)


@pytest.mark.promise("R30")
def test_a_stage_whose_folder_another_takes_the_place_of_does_not_finish_there(
    stage: Callable[..., Stage], tmp_path: Path
) -> None:
    prepared = stage(*COMMANDS["train-dit"])
    runs_dir = prepared.fresh()
    running, folder = started(prepared, runs_dir), prepared.folder(runs_dir)
    folder.rename(tmp_path / "away")
    folder.mkdir()
    (folder / LOCK).touch()
    ended = running.wait()
    assert ended.code == 2 and "is gone: it was moved or deleted while this command wrote it" in ended.err
    assert not (folder / MANIFEST).exists()


@pytest.mark.promise("R30", quick=4, full=len(SPECIAL) * len(READERS) * 2)
def test_pipes_and_endless_devices_inside_a_run_are_refused_and_no_command_waits(
    trials: Trials, ldm: Launcher, tmp_path: Path
) -> None:
    every = [(name, words, device) for device in (False, True) for name in SPECIAL for words in READERS]
    for number, _ in enumerate(trials):
        name, words, device = (every if trials.full else FIRST)[number]
        run = copy_run(tmp_path / str(number))
        path = run / name
        path.unlink(missing_ok=True)
        if device:
            path.symlink_to("/dev/zero")
        else:
            os.mkfifo(path)
        words = [word.format(run=run) for word in words]
        ended = ldm.run(*words, *([] if str(run) in words else ["--runs-dir", run.parent]), limits={"AS": 3 << 30})
        assert "Traceback" not in ended.err and ended.seconds < 60, (name, words, ended)
        assert ended.code in (0, 2, 3), (name, words, ended)
        shutil.rmtree(run)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes and files with letters that latin-1 and ASCII lack."""
    folder = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(("Łódź", "東京")):
        (folder / name).mkdir()
        for number in range(6):
            pixels = np.full((16, 16, 3), 20 * number + 9 * label, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}→.png")
    return folder


def in_a_shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    line = line.replace("ldm ", f"{sys.executable} -m ldm ", 1)
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(["sh", "-c", line], cwd=folder, env=variables, capture_output=True, timeout=120, check=False)


OUTPUTS = [
    *(({"PYTHONIOENCODING": "latin-1"}, ""), ({"PYTHONIOENCODING": "ascii"}, ""), ({"LC_ALL": "C"}, "")),
    ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, ""),
    *(({}, ">&-"), ({}, "2>&-"), ({}, ">&- 2>&-"), ({}, "| true"), ({}, "2>&1 | true"), ({}, "2</dev/null")),
]


@pytest.mark.promise("R30", quick=1, full=len(OUTPUTS))
def test_nothing_fails_because_of_what_an_output_cannot_show(trials: Trials, photos: Path, tmp_path: Path) -> None:
    for _, (environment, redirected) in zip(trials, OUTPUTS, strict=False):
        ended = in_a_shell(f'ldm data inspect "{photos}" --sheet sheet.png {redirected}', tmp_path, **environment)
        assert ended.returncode == 0 and b"Traceback" not in ended.stderr, (environment, redirected, ended)
        assert (tmp_path / "sheet.png").stat().st_size
        (tmp_path / "sheet.png").unlink()


@pytest.mark.promise("R30")
def test_a_deleted_current_folder_is_named(tmp_path: Path) -> None:
    ended = in_a_shell("mkdir d && cd d && rmdir ../d && ldm doctor", tmp_path)
    assert ended.returncode == 2 and b"the current folder does not exist any more" in ended.stderr, ended
