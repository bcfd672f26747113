"""What TAB offers, in the words that each shell hands over, and what it costs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ldm.cli.keys import settings_of
from ldm.cli.main import app
from ldm.cli.recipe import recipe_names
from ldm.core.autoencoders.families import FAMILIES as AUTOENCODERS
from ldm.core.conditioning.class_names import parse_classes
from ldm.core.denoisers.families import FAMILIES as DENOISERS
from ldm.core.settings.families import preset_names
from ldm.stages.table import COMMANDS, STAGES

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ["tench", "garbage truck", "gas pump", "crane (bird)", "Großer Hai"]


def bash(line: str) -> list[str]:
    """Return what bash is offered for a line, which it takes apart at `=` as well as at blanks."""
    words = line.replace("=", " = ").split(" ")
    words = [word for word in words[:-1] if word] + words[-1:]
    if line.endswith("="):
        words = words[:-1]
    variables = {"_LDM_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    return said(variables)


def fish(line: str) -> list[str]:
    """Return what fish is offered, without the help that follows a tab."""
    variables = {
        "_LDM_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_ARGS": line,
    }
    return [offer.split("\t")[0] for offer in said(variables)]


def said(variables: dict[str, str]) -> list[str]:
    result = CliRunner().invoke(app, [], prog_name="ldm", env=variables)
    assert result.exit_code == 0 and not result.stderr, result.output
    return [line for line in result.stdout.splitlines() if line]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two runs whose denoisers know different classes."""
    for name, classes in (("default", ["one", "two"]), ("fish", CLASSES)):
        folder = tmp_path / "runs" / name / "dit"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"facts": {"class_names": classes}}))
    (tmp_path / "runs" / "mistyped" / "dit").mkdir(parents=True)  # left by a command that was refused
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("offered", [bash, fish])
def test_commands_are_offered_at_every_level(offered: object) -> None:
    assert callable(offered)
    assert offered("ldm train-d") == ["train-dit", "train-denoiser"]
    assert offered("ldm recipes ") == ["ls", "show", "copy"]
    assert offered("ldm config sc") == ["schema"]
    assert offered("ldm config show tr") == [name for name in STAGES if name.startswith("tr")]
    assert offered("ldm config schema train-d") == ["train-dit", "train-denoiser"]
    assert set(offered("ldm ")) >= {*STAGES, "recipes", "config", "plan"}


def test_help_of_a_command_is_shown_where_the_shell_shows_it() -> None:
    variables = {"_LDM_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "ldm enc"}
    shown = CliRunner().invoke(app, [], prog_name="ldm", env=variables).stdout
    assert STAGES["encode"].summary in shown


@pytest.mark.parametrize("offered", [bash, fish])
def test_keys_are_offered_with_their_equals_sign(offered: object) -> None:
    assert callable(offered)
    assert offered("ldm train-dit train.l") == ["train.lr=", "train.log_every="]
    assert "diffusion.schedule=" in offered("ldm train-dit diffusion.s")
    assert all(key.endswith("=") for key in offered("ldm train-dit "))
    assert offered("ldm config show train-dit train.l") == ["train.lr=", "train.log_every="]
    assert offered("ldm train-dit nonsense.") == []


@pytest.mark.parametrize("offered", [bash, fish])
def test_a_sole_key_comes_with_values_so_that_the_shell_does_not_end_the_word(offered: object) -> None:
    assert callable(offered)
    assert offered("ldm train-dit diffusion.ti") == [f"diffusion.times={v}" for v in ("", "uniform", "logit-normal")]
    assert offered("ldm train-dit train.lr") == ["train.lr=", "train.lr=0.001"]
    assert offered("ldm train-dit model.wid") == ["model.width=", "model.width=null"]
    assert offered("ldm train-dit train.tens") == [f"train.tensorboard={v}" for v in ("", "yes", "no")]


def test_values_of_a_key_are_offered_as_whole_words_but_to_bash() -> None:
    assert fish("ldm train-dit train.decay=c") == ["train.decay=constant", "train.decay=cosine"]
    assert bash("ldm train-dit train.decay=c") == ["constant", "cosine"]
    assert bash("ldm train-dit train.decay=") == ["constant", "cosine", "linear", "exponential"]
    assert bash("ldm train-dit train.decay=cosine train.l") == ["train.lr=", "train.log_every="]


def test_values_of_flags_are_offered(runs: Path) -> None:
    assert bash("ldm sample --sampler dd") == ["ddim", "ddpm"]
    assert bash("ldm train-dit -c imagenette-6") == ["imagenette-64", "imagenette-64-kl", "imagenette-64-var"]
    assert bash("ldm recipes copy cif") == ["cifar10"]
    assert bash("ldm recipes show ") == recipe_names()
    assert bash("ldm sample --name ") == bash("ldm report ") == ["default", "fish"]
    assert bash("ldm verify ") == []  # The shell's own file names are the best offer.


def test_class_names_are_those_of_the_run_that_would_be_sampled(runs: Path) -> None:
    assert bash("ldm sample --class ") == ["all", "one", "two"]
    assert bash("ldm sample --name fish --class t") == ["tench"]
    assert bash("ldm sample name=fish --class t") == ["tench"]
    assert bash("ldm sample --denoiser runs/fish/dit --class t") == ["tench"]
    (runs / "r.yaml").write_text("name: fish\n")
    assert bash("ldm sample -c r.yaml --class t") == ["tench"]
    assert bash("ldm sample --runs-dir elsewhere --class t") == []


def with_flag(flag: str) -> list[str]:
    return [
        name
        for name, model in [(name, each.settings) for name, each in COMMANDS.items()]
        if any(flag in s.flags for s in settings_of(model))
    ]


@pytest.mark.parametrize("command", with_flag("--class"))
def test_class_names_are_offered_by_every_command_that_takes_them(command: str, runs: Path) -> None:
    assert bash(f"ldm {command} --class ") == ["all", "one", "two"]
    assert bash(f"ldm {command} --name fish --class t") == ["tench"]
    assert bash(f"ldm {command} --runs-dir elsewhere --class t") == []


@pytest.mark.parametrize("command", COMMANDS)
def test_no_flag_of_any_command_ends_completion_with_an_error(command: str, runs: Path) -> None:
    bash(f"ldm {command} ")  # `said` asserts that nothing went wrong
    for setting in settings_of(COMMANDS[command].settings):
        if setting.flags and not setting.is_switch:
            bash(f"ldm {command} {setting.flags[0]} ")


@pytest.mark.parametrize("command", with_flag("--preset"))
def test_names_of_networks_are_offered_in_the_case_that_was_begun(command: str) -> None:
    if command in ("train-vqvae", "train-autoencoder"):
        assert bash(f"ldm {command} --preset ") == [*preset_names(AUTOENCODERS)]
        assert bash(f"ldm {command} --preset vqvae-f") == ["vqvae-f8", "vqvae-f16"]
    elif command == "train-var":
        assert bash(f"ldm {command} --preset var-d3") == ["var-d30", "var-d36-s"]
    else:
        assert bash(f"ldm {command} --preset ") == [*preset_names(DENOISERS)]
        assert bash(f"ldm {command} --preset dit-x") == ["dit-xs", *(f"dit-xl/{p}" for p in (1, 2, 4, 8))]
        assert bash(f"ldm {command} --preset DiT-XL/8") == ["DiT-XL/8"]


def test_names_of_networks_are_offered_behind_the_key() -> None:
    assert bash("ldm train-vqvae model.preset=vqvae-f") == ["vqvae-f8", "vqvae-f16"]
    assert fish("ldm train-dit model.preset=dit-xs") == ["model.preset=dit-xs"]


def test_class_names_are_offered_behind_a_comma(runs: Path) -> None:
    assert fish("ldm sample --name fish --class tench,ga") == ["tench,garbage_truck", "tench,gas_pump"]


def test_a_class_name_that_is_offered_is_read_as_that_class(runs: Path) -> None:
    offered = fish("ldm sample --name fish --class ")[1:]
    assert [parse_classes(name, CLASSES) for name in offered] == [[index] for index in range(len(CLASSES))]
    assert all(" " not in name for name in offered)


def test_bash_gets_class_names_as_it_reads_them(runs: Path) -> None:
    (word,) = bash("ldm sample --name fish --class cr")
    echoed = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, text=True, check=True).stdout
    assert echoed == "crane_(bird)"


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"facts": 3}', '{"facts": {"class_names": 7}}', "\xff"])
def test_without_a_manifest_that_can_be_read_nothing_is_offered_and_nothing_said(
    content: str | None, runs: Path
) -> None:
    path = runs / "runs" / "default" / "dit" / "manifest.json"
    path.unlink() if content is None else path.write_text(content, encoding="latin-1")
    assert bash("ldm sample --class t") == []


LINES = ["ldm ", "ldm train-dit train.l", "ldm sample -c mn", "ldm sample --name fish --class t"]
LINES += ["ldm recipes show ", "ldm train-dit --preset d"]


@pytest.mark.parametrize("line", LINES)
def test_completion_answers_without_loading_a_heavy_library(line: str, runs: Path) -> None:
    program = """
import sys
from ldm.cli.main import run
try:
    run([])
finally:
    loaded = {"torch", "numpy", "diffusers", "PIL", "matplotlib"} & set(sys.modules)
    assert not loaded, loaded
"""
    words = line.split(" ")
    variables = {"_LDM_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}

    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=runs, capture_output=True, text=True, check=False
    )
    assert done.stdout and not done.stderr, done.stderr


def test_the_script_that_bash_is_given_works_in_bash(runs: Path) -> None:
    (runs / "bin").mkdir()
    command = runs / "bin" / "ldm"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m ldm "$@"\n')
    command.chmod(0o755)
    program = """
from ldm.cli.main import app
from typer._completion_shared import get_completion_script
print(get_completion_script(prog_name="ldm", complete_var="_LDM_COMPLETE", shell="bash"))
"""
    script = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    typed = """
COMP_WORDS=(ldm train-dit train.decay = c); COMP_CWORD=4; _ldm_completion ldm; printf '%s|' "${COMPREPLY[@]}"
COMP_WORDS=(ldm sample --class tw); COMP_CWORD=3; _ldm_completion ldm; printf '%s|' "${COMPREPLY[@]}"
"""
    environment = {**os.environ, "PATH": f"{runs / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script + typed], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "constant|cosine|two|"
