"""A command's configuration model as the parameters of a Typer command."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ..core.errors import ConfigError
from ..core.settings.fields import Stage
from ..stages.table import COMMANDS, TOOLS
from . import examples
from .commands import Command, build_command
from .completion import complete_recipes, complete_settings, completion_of
from .keys import Setting, settings_of


@dataclass(frozen=True)
class Given:
    """What was typed for a command: recipe, `key=value` arguments, flags by dotted key, and how to show it."""

    recipe: str | None
    overrides: tuple[str, ...]
    flags: Mapping[str, str | bool | list[str]]
    quiet: bool
    json: bool


_RECIPE = typer.Option(
    *("--config", "-c"),
    metavar="RECIPE",
    help="Recipe: a YAML file, or the name of one in recipes/.",
    autocompletion=complete_recipes,
    rich_help_panel="Other",
)
_QUIET = typer.Option(
    "--quiet", "-q", help="Show only warnings, errors and the folder that was written.", rich_help_panel="Other"
)
_JSON = typer.Option("--json", help="Report what happens as JSON, one event a line.", rich_help_panel="Other")


def stage_command(command: str, act: Callable[[str, Given], int | None], examples_of: str | None = None) -> Command:
    """Build the command that parses a stage's or a tool's settings and calls `act` with what was given.

    act: returns an exit code or None. Every value is taken as the text typed, so that flags, overrides and recipes are
    read by one reader; only flags that were typed are passed on.
    """
    declared = settings_of(COMMANDS[command].settings)
    arguments = [setting for setting in declared if setting.argument]
    keys = {setting.key for setting in declared}
    # In help, what all stages have comes behind a stage's own settings.
    ordered = sorted((s for s in declared if s.flags), key=lambda setting: setting.key in Stage.model_fields)
    settings = {_parameter_name(setting): setting for setting in ordered}

    def callback(**values: Any) -> int | None:
        flags = {s.key: values[name] for name, s in settings.items() if values[name] is not None}
        given = list(values["overrides"] or ())
        for argument in arguments:
            if argument.kind == "TEXTS":  # All words that set nothing.
                named = [word for word in given if word.partition("=")[0] not in keys]
                given = [word for word in given if word not in named]
                flags |= {argument.key: named} if named else {}
            elif given and (argument.required or "=" not in given[0]):
                flags[argument.key] = given.pop(0)
            elif argument.required:
                raise ConfigError(f"ldm {command} needs {argument.argument}", f"ldm {command} --help shows how")
        return act(command, Given(values.get("recipe"), tuple(given), flags, values["quiet"], values["json"]))

    words = typer.Argument(metavar="[KEY=VALUE]...", autocompletion=complete_settings)
    parameters = [
        _parameter("overrides", list[str] | None, words, None),
        *(_setting_parameter(name, setting, command) for name, setting in settings.items()),
        *([] if command in TOOLS else [_parameter("recipe", str | None, _RECIPE, None)]),
        _parameter("quiet", bool, _QUIET, False),
        _parameter("json", bool, _JSON, False),
    ]
    callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    callback.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    built = build_command(command, callback, COMMANDS[command].summary, examples.examples_of(examples_of or command))
    placed = [str(s.argument) if s.required else f"[{s.argument}]" for s in arguments]
    built.usage = " ".join([*placed, "[OPTIONS] [KEY=VALUE]..."])
    built.arguments = [(str(setting.argument), setting.help) for setting in arguments]
    printed = "" if command in TOOLS else f"; `ldm config show {command}` prints them with their values"
    further = [setting.key for setting in declared if not (setting.flags or setting.argument)]
    built.keys = (f"Further settings, as KEY=VALUE{printed}", further)
    return built


def _parameter_name(setting: Setting) -> str:
    return "set_" + setting.key.replace(".", "__")


def _parameter(name: str, kind: Any, declaration: Any, default: Any) -> inspect.Parameter:
    annotation = Annotated[kind, declaration]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _setting_parameter(name: str, setting: Setting, command: str) -> inspect.Parameter:
    """Return a setting as a parameter: a switch, or a text."""
    described: dict[str, Any] = {
        "help": f"{setting.help}{_default(setting)}",
        "rich_help_panel": _heading(setting, command),
    }
    if setting.is_switch:
        flags = [f"{on}/{off}" for on, off in zip(setting.flags, setting.off_flags, strict=False)] or [*setting.flags]
        return _parameter(name, bool | None, typer.Option(*flags, **described), None)
    completion = completion_of(setting)
    several = setting.kind == "TEXTS"
    option = typer.Option(*setting.flags, metavar=setting.kind.rstrip("S"), autocompletion=completion, **described)
    return _parameter(name, list[str] | None if several else str | None, option, None)


def _heading(setting: Setting, command: str) -> str:
    if setting.key in Stage.model_fields:
        return "Run"
    title = (setting.section or command).capitalize()
    return f"{title}, as the run's autoencoder was given it where nothing is said here" if setting.inherited else title


def _default(setting: Setting) -> str:
    """Return a setting's default as one would type it, in brackets behind its help."""
    if setting.default is None or setting.inherited or (setting.is_switch and not setting.off_flags):
        return ""
    if setting.is_switch:
        return f" [{setting.flags[0] if setting.default else setting.off_flags[0]}]"
    return f" [{setting.shown(setting.default)}]"
