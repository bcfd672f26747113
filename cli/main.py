"""The `ldm` command: one command per stage, built and loaded when it is called for, and exit codes."""

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from .. import __version__
from ..core.errors import OtherProcessFailed
from ..stages.table import ALIASES, COMMANDS, STAGES, TOOLS
from . import examples
from .console import open_console, show_failure
from .distributed import is_reported_here, refuse_several
from .failures import MENDABLE, explain
from .menu import Entry, Menu

if TYPE_CHECKING:
    from ..core.progress import Outcome
    from .options import Given


def run_stage(command: str, given: "Given") -> int:
    """Merge what was given into a command's configuration, load its stage, run it and show what came out.

    Returns the exit code.
    """
    from .layers import merged_config
    from .refusals import in_flags

    refuse_several(command)
    config = merged_config(command, given.recipe, given.overrides, given.flags).config
    with open_console(given.quiet, given.json) as console:
        outcome: Outcome = COMMANDS[command].load().run(config, console)
        summary = {name: in_flags(text, command) for name, text in outcome.summary.items()}
        console.outcome(command, replace(outcome, summary=summary))
    return outcome.exit_code


def _stage(command: str) -> TyperCommand:
    from .options import stage_command

    return stage_command(command, run_stage)


def _shown_stage(command: str) -> TyperCommand:
    from .options import stage_command
    from .show import show_config

    return stage_command(command, show_config, examples_of="config show")


def _config_menu(name: str) -> Menu:
    entries = {
        "show": Entry(_show_menu, _SHOW),
        "schema": Entry(_schema, _SCHEMA),
        "reference": Entry(_reference, _REFERENCE),
    }
    return Menu({"Commands": entries}, name=name, help=examples.MENUS[name])


def _show_menu(name: str) -> Menu:
    stages = {name: Entry(_shown_stage, stage.summary) for name, stage in STAGES.items()}
    return Menu({"Stages": stages}, ALIASES, name=name, help=_SHOW)


def _schema(_: str) -> TyperCommand:
    from .plain import plain_command
    from .schema import show_schema

    return plain_command("config schema", show_schema, _SCHEMA)


def _reference(_: str) -> TyperCommand:
    from .plain import plain_command
    from .reference import write_reference

    return plain_command("config reference", write_reference, _REFERENCE)


def _recipes_menu(name: str) -> Menu:
    from .recipes import recipes_menu

    return recipes_menu(name)


def _data_menu(name: str) -> Menu:
    entries = {
        name.removeprefix("data "): Entry(lambda act: _stage(f"data {act}"), tool.summary)
        for name, tool in TOOLS.items()
        if name.startswith("data ")
    }
    return Menu({"Commands": entries}, name=name, help=examples.MENUS[name])


def _plan(_: str) -> TyperCommand:
    from .plan import plan_command

    return plan_command()


_SHOW = "Print a stage's settings as a recipe: what was set and where, defaults as comments."
_SCHEMA = "Print the JSON schema of recipes, for editors that check and complete YAML."
_REFERENCE = "Write the pages of all commands and of all settings, Markdown, into a folder."
_HEADINGS = {
    "Stages, in order": {name: Entry(_stage, stage.summary) for name, stage in STAGES.items()},
    "Tools": {
        **{name: Entry(_stage, tool.summary) for name, tool in TOOLS.items() if not name.startswith("data ")},
        "data": Entry(_data_menu, examples.MENUS["data"]),
        "recipes": Entry(_recipes_menu, examples.MENUS["recipes"]),
        "config": Entry(_config_menu, examples.MENUS["config"]),
        "plan": Entry(_plan, examples.MENUS["plan"]),
    },
}


class Root(Menu):
    """The menu of `ldm` itself."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(_HEADINGS, ALIASES, **attributes)


app = typer.Typer(cls=Root, help=examples.SUMMARY, rich_markup_mode=None, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ldm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str]) -> int:
    """Run `ldm ARGUMENTS` and return its exit code; whatever the user can mend is shown on stderr."""
    try:
        result = typer.main.get_command(app)(args=list(arguments), prog_name="ldm", standalone_mode=False)
    except OtherProcessFailed as ending:
        return ending.exit_code
    except MENDABLE as error:
        failure = explain(error, _command_in(arguments))
        if failure is None:
            raise
        if os.environ.get("LDM_DEBUG") == "1":
            traceback.print_exception(error)
        if is_reported_here(error):
            show_failure(failure, json="--json" in arguments)
        return failure.exit_code
    return result if isinstance(result, int) else 0


def main() -> None:
    """Run the command line of this process and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def _command_in(arguments: Sequence[str]) -> str:
    """Return the command among the arguments, `data dedup`, or nothing; that whose settings are shown, if any are."""
    words = [ALIASES.get(word, word) for word in arguments]
    if words[:2] == ["config", "show"]:
        words = words[2:]
    named = (" ".join(words[:count]) for count in (2, 1))
    return next((name for name in named if name in examples.SUMMARIES), "")
