"""The command as a whole: what it hands a stage, exit codes, and what it loads."""

import errno
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ldm.cli.failures import explain
from ldm.cli.main import run
from ldm.core import errors
from ldm.core.progress import Outcome
from ldm.stages.table import COMMANDS, STAGES

ROOT = Path(__file__).resolve().parents[2]
Install = Callable[[str, Any], None]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a function in a stage's place."""

    def install(command: str, function: Any) -> None:
        name = f"ldm.{COMMANDS[command].module}"
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(run=function))  # type: ignore[arg-type]

    return install


def raising(error: BaseException) -> Any:
    def function(config: Any, progress: Any) -> Outcome:
        raise error

    return function


def ldm(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, "-m", "ldm", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("command", STAGES)
def test_each_command_hands_its_stage_the_merged_configuration(command: str, stage: Install, tmp_path: Path) -> None:
    seen: list[Any] = []

    def function(config: Any, progress: Any) -> Outcome:
        seen.append(config)
        return Outcome(tmp_path)

    stage(command, function)
    (tmp_path / "r.yaml").write_text("name: fromrecipe\nseed: 3\n")
    assert run([command, "-c", str(tmp_path / "r.yaml"), "seed=4", "--name", "flagged"]) == 0
    assert type(seen[0]) is STAGES[command].settings
    assert (seen[0].name, seen[0].seed) == ("flagged", 4)


def test_a_recipe_whose_settings_are_those_of_the_other_command_is_warned_of(
    stage: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage("train-vqvae", lambda config, progress: Outcome(tmp_path))
    (tmp_path / "r.yaml").write_text("train-autoencoder: {seed: 3}\n")
    assert run(["train-vqvae", "-c", str(tmp_path / "r.yaml")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "no section train-vqvae" in said and "`ldm train-autoencoder` uses it" in said


def test_the_alias_runs_encode(stage: Install, tmp_path: Path) -> None:
    stage("encode", lambda config, progress: Outcome(tmp_path))
    assert run(["precompute-latents", "--batch-size", "8"]) == 0


def test_the_exit_code_is_the_one_of_the_outcome(stage: Install, capsys: pytest.CaptureFixture[str]) -> None:
    found = Outcome(Path("x"), summary={"disk": "full"}, verdict="is full", facts={"free": 0}, exit_code=2)
    stage("sample", lambda config, progress: found)
    assert run(["sample", "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert said["facts"] == {"free": 0} and said["verdict"] == "is full"


def user_errors() -> list[type[errors.UserError]]:
    return [errors.UserError, *errors.UserError.__subclasses__()]


@pytest.mark.parametrize("kind", user_errors())
def test_every_user_error_is_one_line_a_remedy_and_its_exit_code(
    kind: type[errors.UserError], stage: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    stage("sample", raising(kind("the file x is torn", "mend it")))
    assert run(["sample"]) == kind.exit_code
    captured = capsys.readouterr()
    assert captured.err == "error: the file x is torn\n hint: mend it\n" and captured.out == ""


def test_exit_codes_are_those_that_are_documented() -> None:
    codes = {kind.__name__: kind.exit_code for kind in user_errors()}
    assert codes == {"UserError": 2, "ConfigError": 2, "DataError": 3, "Diverged": 4, "Stopped": 75, "LostProcess": 1}


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), 2, "disk: cannot write a/b: no space left"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), 2, "cannot use a/b: permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "a/b"), 2, "cannot use a/b: read-only"),
        (FileExistsError(errno.EEXIST, "File exists", "a/b"), 2, "cannot use a/b: file exists"),
        (OutOfMemoryError("CUDA out of memory. Tried\nmore"), 1, "out of memory: CUDA out of memory. Tried\n"),
        (MemoryError(), 1, "out of memory: MemoryError"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 1, "out of memory: [Errno 12]"),
        (RuntimeError("can't start new thread"), 1, "out of memory: can't start new thread"),
        (ImportError("libx.so: failed to map segment from shared object"), 1, "out of memory: libx.so: failed"),
        (OSError(errno.EIO, "Input/output error", "a/b"), 2, "the disk failed: cannot use a/b: input/output error"),
        (OSError(errno.ESTALE, "Stale file handle", "a/b"), 2, "the disk failed: cannot use a/b: stale file handle"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9"), 1, "train.accumulate=2"),
        (RuntimeError("CUDA error: unspecified launch failure\nmore"), 1, "the GPU failed: CUDA error: unspecified"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_the_system_refuses_is_reported_in_one_line(
    error: BaseException, code: int, says: str, stage: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    stage("train-dit", raising(error))
    assert run(["train-dit"]) == code
    captured = capsys.readouterr().err
    assert says in captured and "Traceback" not in captured


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a defect"),
        ImportError("no module named x"),
        RuntimeError("CUDA error: device-side assert triggered"),
        FileNotFoundError(errno.ENOENT, "gone", "a"),
    ],
)
def test_a_defect_keeps_its_traceback(error: Exception, stage: Install) -> None:
    stage("sample", raising(error))
    with pytest.raises(type(error)):
        run(["sample"])


def test_the_hint_on_memory_names_only_what_the_command_has() -> None:
    remedies = []
    for command in ("sample", "eval", "train-vqvae"):
        failure = explain(MemoryError(), command)
        assert failure and failure.remedy
        remedies.append(failure.remedy)
    assert [("--batch-size" in remedy, "accumulate" in remedy) for remedy in remedies] == [
        (False, False),  # The network takes a fixed number of images at once.
        (True, False),
        (True, True),
    ]


def test_debug_adds_the_traceback(
    stage: Install, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDM_DEBUG", "1")
    stage("sample", raising(errors.DataError("torn", "mend it")))
    assert run(["sample"]) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian-dit"], "no command trian-dit; did you mean train-dit?"),
        (["precompute-latent"], "did you mean precompute-latents?"),
        (["config", "shwo"], "no command shwo; did you mean show?"),
        (["config", "schema", "trian-dit"], "no stage trian-dit; did you mean train-dit?"),
        (["recipes", "cpoy"], "no command cpoy; did you mean copy?"),
        (["recipes", "ls", "--jsno"], "no flag --jsno; did you mean --json?"),
        (["recipes", "ls", "--hlp"], "no flag --hlp; did you mean --help?"),
        (["verify", "--hlp"], "no flag --hlp; did you mean --help?"),
        (["config", "--hlp"], "no flag --hlp; did you mean --help?"),
        (["--hlp"], "no flag --hlp; did you mean --help?"),
        (["--verson"], "no flag --verson; did you mean --version?"),
        (["train-dit", "--preset", "dit-ss"], "did you mean dit-"),
        (["sample", "--smapler", "ddim"], "no flag --smapler; did you mean --sampler?"),
        (["sample", "stesp=3"], "unknown setting stesp; did you mean steps?"),
        (["sample", "-c", "mnits"], "there is no recipe mnits; did you mean mnist?"),
        (["sample", "--num"], "--num"),
        (["sample", "--cfg", "x"], "cfg (--cfg) is x"),
        (["sample", "--sampler", "dim"], "did you mean ddim?"),
        (["sample", "-c", "no-such-recipe"], "there is no recipe no-such-recipe"),
        (["plan", "--bogus"], "--bogus"),
        (["--bogus"], "--bogus"),
    ],
)
def test_wrong_usage_is_named_and_exits_2(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert says in captured.err and " hint: " in captured.err and captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["report", "nosuch"], "name one of the runs there are: other"),
        (["eval", "--samples", "nosuch"], "name one of the run's: 3-ddim"),
        (["recipes", "show", "nosuch"], "name one of mnist, or give the path of a file"),
        (["config", "schema", "nosuch"], "name one of train-vqvae, train-autoencoder, encode, "),
        (["data", "inspect", "nosuch"], "give a folder, a .zip, "),
    ],
)
def test_a_name_that_there_is_not_is_answered_with_an_instruction(
    arguments: list[str],
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "runs" / "other" / "vqvae").mkdir(parents=True)
    (tmp_path / "runs" / "other" / "vqvae" / "identity.json").write_text("{}")
    (tmp_path / "runs" / "mistyped" / "vqvae").mkdir(parents=True)
    evaluated = tmp_path / "runs" / "default" / "samples" / "3-ddim"
    evaluated.mkdir(parents=True)
    (evaluated / "manifest.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ldm.cli.recipe.recipe_folders", lambda: [tmp_path / "recipes"])
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mnist.yaml").write_text("name: x\n")
    assert run(arguments) in (2, 3)
    assert f" hint: {remedy}" in capsys.readouterr().err


def test_errors_are_an_event_where_events_are_asked_for(stage: Install, capsys: pytest.CaptureFixture[str]) -> None:
    stage("sample", raising(errors.DataError("torn", "mend it")))
    assert run(["sample", "--json"]) == 3
    assert json.loads(capsys.readouterr().out) == {
        "event": "error",
        "message": "torn",
        "remedy": "mend it",
        "exit_code": 3,
    }


def test_without_arguments_the_help_is_shown_and_the_exit_code_says_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "Stages, in order" in capsys.readouterr().out


def test_help_plan_and_config_load_no_heavy_library(tmp_path: Path) -> None:
    program = f"""
import sys
from ldm.cli.main import run
from ldm.stages.table import STAGES
for command in STAGES:
    assert run([command, "--help"]) == 0
    assert run(["config", "show", command]) == 0
assert run(["--help"]) == 0
assert run(["plan", "--runs-dir", {str(tmp_path)!r}]) == 0
loaded = {{"torch", "numpy", "diffusers", "PIL", "scipy", "matplotlib", "webdataset"}} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_missing_path_is_named_before_torch_is_loaded(command: str) -> None:
    program = f"""
import sys
from ldm.cli.main import run
assert run([{command!r}, "/nowhere/at/all"]) == 3
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "error: /nowhere/at/all does not exist" in done.stderr


def test_the_module_is_the_command() -> None:
    shown = ldm("--version")
    assert shown.returncode == 0 and shown.stdout.startswith("ldm ")
    refused = ldm("sample", "--cfg", "x")
    assert refused.returncode == 2 and refused.stderr.startswith("error: ")


def test_a_reader_that_left_causes_no_traceback() -> None:
    theirs, ours = os.pipe()
    os.close(theirs)
    command = [sys.executable, "-m", "ldm", "config", "show", "train-dit"]
    done = subprocess.run(command, cwd=ROOT, stdout=ours, stderr=subprocess.PIPE, text=True, check=False)
    os.close(ours)
    assert done.stderr == ""
