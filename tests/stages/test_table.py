"""The table of stages agrees with the settings, the roles and the modules that it names."""

import subprocess
import sys
from pathlib import Path

import pytest

from ldm.core.runs.roles import ROLES, role_of
from ldm.core.settings.fields import Section, Stage
from ldm.stages.command import Command, Kind, named
from ldm.stages.table import COMMANDS, KINDS, MAKERS, STAGES, pipeline

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_is_read_without_torch_and_without_pydantic() -> None:
    program = "import sys, ldm.stages.table; assert not {'torch', 'numpy', 'pydantic', 'yaml'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_every_command_has_settings_and_a_module_that_runs_it(command: Command) -> None:
    assert issubclass(command.settings, Section)
    assert callable(command.load().run)
    assert command.summary.endswith(".") and command.settings.examples


@pytest.mark.parametrize("command", STAGES.values(), ids=lambda command: command.name)
def test_settings_name_the_command_and_the_kind_that_the_table_does(command: Command) -> None:
    assert issubclass(command.settings, Stage)
    assert command.settings.command == command.name
    assert command.settings.kind == command.writes[0].name


@pytest.mark.parametrize("command", STAGES.values(), ids=lambda command: command.name)
def test_a_stage_makes_targets_where_its_kind_lies_and_names_what_estimates_it(command: Command) -> None:
    assert all(
        bool(target.label) == (command.writes[0].name in command.writes[0].role.labelled) for target in command.targets
    )
    assert not command.cost or callable(named(command.cost))


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_roles_name_the_commands_that_the_table_does(kind: Kind) -> None:
    assert role_of(kind.name) is kind.role
    assert kind.role.makers[kind.name].split()[0] == MAKERS[kind.name].name


def test_every_kind_that_a_role_names_stands_in_the_table() -> None:
    assert {name for role in ROLES for name in role.makers} == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_what_checks_a_kind_is_there(kind: Kind) -> None:
    places = [kind.contents, f"{kind.network}:load" if kind.network else ""]
    assert all(callable(named(place)) for place in places if place)


def test_a_pipeline_has_one_stage_for_each_role_and_those_that_its_recipe_names() -> None:
    assert pipeline() == ["train-vqvae", "encode", "train-dit", "train-classifier", "sample", "eval"]
    assert pipeline(["train-denoiser", "data"])[2] == "train-denoiser"
