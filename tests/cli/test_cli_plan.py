"""`ldm plan` touches only what a changed recipe changes; `ldm config show` prints recipes."""

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from ldm.cli.layers import merged_config
from ldm.cli.main import run
from ldm.cli.plan import FOLDER, RULES, rules, write_plan
from ldm.core.errors import ConfigError, DataError
from ldm.core.runs.roles import DENOISER, Role
from ldm.stages.command import Command, Kind, Target
from ldm.stages.table import COMMANDS, STAGES

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(text: str) -> set[str]:
    """Write a recipe and its plan; return the stages whose file was written."""
    Path("r.yaml").write_text(text)
    folder = Path("runs/x/.plan")
    for path in folder.glob("*"):
        os.utime(path, (1, 1))
    changed = set(write_plan("r.yaml", "x"))
    assert changed == {path for path in folder.iterdir() if path.stat().st_mtime != 1}
    assert {path.name for path in folder.iterdir()} == {f"{stage}.json" for stage in STAGES} | {RULES}
    return {path.stem for path in changed if path.name != RULES}


def test_only_the_stages_that_a_change_touches_are_rewritten() -> None:
    assert plan("train-dit: {train: {lr: 1e-4}}\n") == set(STAGES)
    assert plan("train-dit: {train: {lr: 1e-4}}\n") == set()
    assert plan("# a remark\ntrain-dit:\n  train:\n    lr: 0.0001\n") == set()
    assert plan("train-dit: {train: {lr: 2e-4}}\n") == {"train-dit"}
    assert plan("data: {flip: no}\ntrain-dit: {train: {lr: 2e-4}}\n") == {
        "train-vqvae",
        "train-autoencoder",
        "encode",
        "train-classifier",
    }
    assert plan("seed: 9\ndata: {flip: no}\ntrain-dit: {train: {lr: 2e-4}}\n") == set(STAGES)


def test_settings_that_only_say_how_the_work_is_done_touch_nothing() -> None:
    plan("seed: 1\n")
    assert (
        plan("seed: 1\nmachine: {device: cpu, threads: 2}\ntrain-dit: {train: {keep: 3, checkpoint_every: 9k}}\n")
        == set()
    )


def test_the_run_is_the_flags_before_the_recipes() -> None:
    Path("r.yaml").write_text("name: fromrecipe\n")
    assert {path.parent for path in write_plan("r.yaml")} == {Path("runs/fromrecipe/.plan")}
    assert {path.parent for path in write_plan("r.yaml", "other", "elsewhere")} == {Path("elsewhere/other/.plan")}


def test_two_runs_of_one_recipe_have_the_same_plan() -> None:
    Path("r.yaml").write_text("seed: 1\n")
    write_plan("r.yaml", "a")
    write_plan("r.yaml", "b")
    for stage in STAGES:
        assert Path(f"runs/a/.plan/{stage}.json").read_bytes() == Path(f"runs/b/.plan/{stage}.json").read_bytes()


def test_files_that_are_missing_are_named_before_anything_is_trained_until_their_stage_is_made() -> None:
    text = """
train-vqvae: {loss: {lpips: weights/lpips}}
train-dit: {metrics: {weights: weights/net.pth}, start_from: runs/x/other}
"""
    with pytest.raises(DataError) as refused:
        plan(text)
    assert refused.value.message == (
        "train-vqvae: `loss.lpips=weights/lpips` does not exist; train-dit: `metrics.weights=weights/net.pth` does not"
        " exist"
    )
    assert not Path("runs").exists()
    Path("weights/lpips").mkdir(parents=True)
    with pytest.raises(DataError, match=r"^train-dit: `metrics\.weights=weights/net\.pth` does not exist"):
        plan(text)
    Path("runs/x/dit").mkdir(parents=True)
    Path("runs/x/dit/manifest.json").write_text("{}")
    plan(text)


def test_files_that_a_phase_reads_are_missed_too() -> None:
    with pytest.raises(DataError, match=r"^train-vqvae: `loss\.lpips=weights/lpips` does not exist"):
        plan("train-vqvae: {phases: [part=all, part=head loss.lpips=weights/lpips]}")


def test_drawing_away_from_the_early_state_needs_no_file_but_a_training_that_keeps_it() -> None:
    drawing = "sample: {autoguide: early}\n"
    plan(drawing + "train-dit: {train: {images: 100k}}")  # as many as `train.early`
    for short in ("train: {images: 99k}", "train: {early: 0}", "train: {images: 1M, early: 2M}"):
        with pytest.raises(ConfigError, match=r"^sample: `autoguide=early`, and train-dit keeps no early state"):
            plan(f"{drawing}train-dit: {{{short}}}")
    plan("sample: {autoguide: early, denoiser: runs/x/other}\ntrain-dit: {train: {early: 0}}")


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_has_a_plan_where_the_files_are_that_it_names(recipe: Path) -> None:
    try:
        write_plan(str(recipe), "x")
    except DataError as error:
        for path in re.findall(r"`[\w.]+=(\S+)` does not exist", error.message):
            assert path.startswith(("weights/", "data/")), path
            Path(path).mkdir(parents=True, exist_ok=True)
    write_plan(str(recipe), "x")
    assert Path("runs/x", FOLDER, RULES).is_file()


def test_a_damaged_plan_is_written_anew() -> None:
    plan("seed: 1\n")
    Path("runs/x/.plan/encode.json").write_text("{")
    assert plan("seed: 1\n") == {"encode"}
    assert json.loads(Path("runs/x/.plan/encode.json").read_text())["settings"]["seed"] == 1


def test_a_recipe_with_one_bad_stage_writes_no_plan() -> None:
    Path("r.yaml").write_text("eval: {of: nothing}\n")
    with pytest.raises(ConfigError, match=r"r\.yaml line 1"):
        write_plan("r.yaml", "x")
    assert not Path("runs").exists()


def test_the_command_says_what_changed_and_is_silent_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.yaml").write_text("seed: 1\n")
    assert run(["plan", "-c", "r.yaml", "--name", "x"]) == 0
    assert "plan: runs/x/.plan/train-dit.json changed" in capsys.readouterr().out
    assert run(["plan", "-c", "r.yaml", "--name", "x"]) == 0
    assert run(["plan", "-c", "r.yaml", "--name", "y", "--quiet"]) == 0
    assert capsys.readouterr().out == "" and Path("runs/y/.plan").is_dir()


MAKEFILE = Path(__file__).resolve().parents[2] / "Makefile"


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """Let make do a plan with commands that only say their name and make their manifest."""
    ldm = "LDM=f() { echo $$1; mkdir -p $(@D) && touch $@; }; f"
    return subprocess.run(
        ["make", "-f", MAKEFILE, "RUN=x", ldm, "--no-print-directory", "--silent", *words, "every-stage"],
        capture_output=True,
        text=True,
        check=False,
    )


def test_make_runs_every_stage_once_and_then_those_whose_part_of_the_recipe_or_input_changed() -> None:
    plan("seed: 1\n")
    assert make("--question").returncode == 1
    assert make().stdout.split() == ["train-vqvae", "encode", "train-dit", "train-classifier", "sample", "eval", "eval"]
    assert make("--question").returncode == 0 and make().stdout == ""
    plan("seed: 1\nsample: {cfg: 2}\n")
    assert make("--question").returncode == 1
    assert make().stdout.split() == ["sample", "eval"]
    Path("runs/x/latents/manifest.json").unlink()
    assert make().stdout.split() == ["encode", "train-dit", "sample", "eval"]


def test_a_run_without_a_plan_is_not_taken_for_complete() -> None:
    assert "No rule to make target 'runs/x/.plan/rules.mk'" in make("--question").stderr


def test_the_rules_are_of_the_commands_that_the_recipe_has_sections_of() -> None:
    plan("train-denoiser: {train: {lr: 2e-4}}\n")
    written = Path(f"runs/x/{FOLDER}/{RULES}").read_text()
    assert written == rules(["train-denoiser"]) and "train-dit" not in written
    assert "$(R)/samples/pipeline/manifest.json: $(R)/.plan/sample.json $(R)/denoiser/manifest.json\n" in written


def test_a_stage_that_is_left_out_has_no_rule_nor_has_what_needs_it() -> None:
    plan("without: [train-classifier]\n")
    written = Path(f"runs/x/{FOLDER}/{RULES}").read_text()
    assert "classifier" not in written and "reconstructions" not in written
    assert "$(R)/eval/pipeline/manifest.json: $(R)/.plan/eval.json $(R)/samples/pipeline/manifest.json\n" in written


def test_a_stage_of_the_table_has_rules_without_being_named_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    film = Kind("film", Role("film", {"film": "film"}, labelled=("film",)), "Film", inputs={"denoiser": DENOISER})
    targets = (Target("short", ("--label", "short")), Target("long", ("--label", "long")))
    record = replace(STAGES["sample"], name="film", writes=(film,), targets=targets)
    for commands in (STAGES, COMMANDS):
        monkeypatch.setitem(cast(dict[str, Command], commands), "film", record)
    plan("seed: 1\n")
    assert make().stdout.split()[-2:] == ["film", "film"]
    Path("runs/x/dit/manifest.json").unlink()
    assert make().stdout.split() == ["train-dit", "sample", "eval", "film", "film"]


@pytest.mark.parametrize("command", STAGES)
def test_what_config_show_prints_is_a_recipe_for_the_same_configuration(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("r.yaml").write_text("name: no\nseed: 7\ndata: {source: a/b, flip: no}\nsample: {cfg_interval: [0.1, 0.5]}\n")
    assert run(["config", "show", command, "-c", "r.yaml", "machine.threads=3", "--runs-dir", "other"]) == 0
    shown = capsys.readouterr().out
    Path("again.yaml").write_text(shown)
    again = merged_config(command, "again.yaml").config
    assert again == merged_config(command, "r.yaml", ["machine.threads=3"], {"runs_dir": "other"}).config
    assert again.name == "no" and "# r.yaml line 2" in shown and "# argument machine.threads=3" in shown


def test_config_show_says_no_more_than_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "encode", "--no-flip"]) == 0
    Path("again.yaml").write_text(capsys.readouterr().out)
    data = merged_config("encode", "again.yaml").config.model_dump(exclude_unset=True)
    assert data == {"data": {"flip": False}}
