"""The `ldm` command: one command per stage, built and loaded when it is called for, and exit codes."""

import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import __version__
from ..core.errors import ConfigError, Notice, OtherProcessFailed, UserError
from ..core.system.signals import stopping_at_once
from ..core.system.threads import set_up
from ..stages.table import ALIASES, COMMANDS, STAGES, TOOLS
from . import examples
from .commands import Menu, plain_command
from .console import Plain, open_console, show_failure
from .distributed import is_reported_here, refuse_several
from .failures import MENDABLE, explain
from .outputs import secure_outputs

if TYPE_CHECKING:
    from ..core.progress import Outcome
    from .options import Given


def run_stage(command: str, given: "Given") -> int:
    """Merge what was given into a command's configuration, load its stage, run it and show what came out.

    Returns the exit code.
    """
    from .layers import merged_config
    from .refusals import in_flags, with_recipe

    refuse_several(command)
    merged = merged_config(command, given.recipe, given.overrides, given.flags)
    config = merged.config
    with open_console(given.quiet, given.json) as console, _notices(console):
        if merged.chosen_seed is not None:
            console.note(f"--seed {merged.chosen_seed} was chosen; give it to continue, or to draw the same again")
        if other := merged.passed_over:
            console.warn(
                f"the recipe {given.recipe} has no section {command}: what its section {other} says does not count"
                f" here; `ldm {other}` uses it"
            )
        try:
            config.require_places()
            outcome: Outcome = COMMANDS[command].load().run(config, console)
        except UserError as error:
            error.remedy = with_recipe(error.remedy, given.recipe) if error.remedy else None
            raise
        summary = {name: in_flags(text, command) for name, text in outcome.summary.items()}
        following = [with_recipe(line, given.recipe) for line in outcome.next_commands]
        console.outcome(command, replace(outcome, summary=summary, next_commands=following))
    return outcome.exit_code


@contextmanager
def _notices(console: Plain) -> Iterator[None]:
    """Show what core gives as a Notice as a warning of the command, once each."""
    with warnings.catch_warnings():
        # Of torch: a norm of bf16 by weights in fp32, which is as it should be, takes two kernels.
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
        other = warnings.showwarning

        def show(message: Warning | str, *others: Any, **named: Any) -> None:
            if isinstance(message, Notice):
                console.warn(str(message))
            else:
                other(message, *others, **named)

        warnings.showwarning = show
        yield


def _build(path: str) -> Any:
    """Build the command of a path, `recipes copy`, or the group of the commands below it."""
    from .options import stage_command

    shown = path.removeprefix("config show ")
    if path in COMMANDS:
        return stage_command(path, run_stage)
    if shown in STAGES:
        return stage_command(shown, _imported("show:show_config"), examples_of="config show")
    if path in examples.PLAIN:
        function, summary = examples.PLAIN[path]
        return plain_command(path, _imported(function), summary)
    if path == "plan":
        return _imported("plan:plan_command")()
    below = {name: stage.summary for name, stage in STAGES.items()} if path == "config show" else _below(path)
    heading, aliases = ("Stages", ALIASES) if path == "config show" else ("Commands", {})
    attributes = {"name": path, "help": examples.MENUS[path], "epilog": "\n".join(examples.examples_of(path))}
    return Menu({heading: below}, lambda name: _build(f"{path} {name}"), aliases, **attributes)


def _below(path: str) -> dict[str, str]:
    """Return the commands in a group and what they are for."""
    split = {tuple(full.rsplit(" ", 1)): summary for full, summary in examples.SUMMARIES.items() if " " in full}
    return {name: summary for (group, name), summary in split.items() if group == path}


def _imported(place: str) -> Any:
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(f".{module}", __package__), function)


_TOOLS = [*(name for name in TOOLS if " " not in name), "data", "recipes", "config", "plan"]
_HEADINGS = {
    "Stages, in order": {name: stage.summary for name, stage in STAGES.items()},
    "Tools": {name: examples.SUMMARIES[name] for name in _TOOLS},
}


class Root(Menu):
    """The group of all commands, `ldm` itself."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(_HEADINGS, _build, ALIASES, **{**attributes, "epilog": "\n".join(examples.examples_of(""))})


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
        with stopping_at_once():
            _require_folder()
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
    secure_outputs()
    set_up(os.environ)
    sys.exit(run(sys.argv[1:]))


def _require_folder() -> None:
    """Raise ConfigError where the current folder was deleted: libraries abort the process there."""
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        raise ConfigError("the current folder does not exist any more", "change into another one (cd)") from None


def _command_in(arguments: Sequence[str]) -> str:
    """Return the command among the arguments, `data dedup`, or nothing; that whose settings are shown, if any are."""
    words = [ALIASES.get(word, word) for word in arguments]
    if words[:2] == ["config", "show"]:
        words = words[2:]
    named = (" ".join(words[:count]) for count in (2, 1))
    return next((name for name in named if name in examples.SUMMARIES), "")
