"""A command's configuration model as the parameters of a Typer command, and as its help page."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ..core.errors import ConfigError
from ..core.settings.fields import Stage
from ..core.settings.words import did_you_mean
from ..stages.table import COMMANDS, TOOLS
from . import examples, help
from .completion import complete_recipes, complete_settings, completion_of
from .failures import UsageError
from .keys import Setting, settings_of

_SWITCHES = {
    "recipe": ("--config", "-c"),
    "quiet": ("--quiet", "-q"),
    "json": ("--json",),
}
_SWITCH_HELP = {
    "recipe": "Recipe: a YAML file, or the name of one in recipes/.",
    "quiet": "Say nothing but warnings and errors.",
    "json": "Tell what happens as JSON, one event a line.",
}


@dataclass(frozen=True)
class Given:
    """What was typed for a command: recipe, `key=value` arguments, flags by dotted key, and how to show it."""

    recipe: str | None
    overrides: tuple[str, ...]
    flags: Mapping[str, str | bool]
    quiet: bool
    json: bool


def stage_command(
    command: str, act: Callable[[str, Given], int | None], examples_of: str | None = None
) -> TyperCommand:
    """Build the command that parses a stage's or a tool's settings and hands what was given to `act`, which returns an
    exit code or None.

    Every value is taken as the text typed, so that flags, overrides and recipes are read by one reader; only flags
    that were typed are passed on.
    """
    settings = {_parameter_name(s): s for s in settings_of(COMMANDS[command].settings) if s.flags}
    arguments = _arguments(command)

    def callback(**values: Any) -> int | None:
        flags = {s.key: values[name] for name, s in settings.items() if values[name] is not None}
        given = list(values["overrides"] or ())
        for argument in arguments:
            if given and (argument.required or "=" not in given[0]):
                flags[argument.key] = given.pop(0)
            elif argument.required:
                raise ConfigError(f"ldm {command} needs {argument.argument}", f"ldm {command} --help shows how")
        return act(command, Given(values.get("recipe"), tuple(given), flags, values["quiet"], values["json"]))

    recipe = _parameter("recipe", str | None, typer.Option(*_SWITCHES["recipe"], autocompletion=complete_recipes), None)
    words = typer.Argument(metavar="[KEY=VALUE]...", autocompletion=complete_settings)
    parameters = [
        _parameter("overrides", list[str] | None, words, None),
        *([] if command in TOOLS else [recipe]),
        *(_parameter(name, *_declared(setting), None) for name, setting in settings.items()),
        _parameter("quiet", bool, typer.Option(*_SWITCHES["quiet"]), False),
        _parameter("json", bool, typer.Option(*_SWITCHES["json"]), False),
    ]
    callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    callback.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    epilog = "\n".join(examples.EXAMPLES[examples_of or command])
    app.command(command, cls=StageCommand, help=COMMANDS[command].summary, epilog=epilog)(callback)
    built = typer.main.get_command(app)
    assert isinstance(built, StageCommand)
    return built


class StageCommand(TyperCommand):
    """A stage's command: with its own help page, and the nearest flag or key for an unknown one."""

    def manual(self, ctx: Any) -> help.Manual:
        """Return what the command shows of itself."""
        assert self.name is not None
        arguments = "".join(f" {s.argument}" if s.required else f" [{s.argument}]" for s in _arguments(self.name))
        usage = f"{ctx.command_path}{arguments} [OPTIONS] [KEY=VALUE]..."
        groups = [*_help_groups(self.name).items()]
        return help.Manual(usage, self.help or "", groups, (self.epilog or "").splitlines(), _further(self.name))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(help.page(self.manual(ctx)))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            wrong = getattr(error, "option_name", None)
            if type(error).__name__ != "NoSuchOption" or wrong is None:
                raise
            assert self.name is not None
            raise _unknown_flag(str(wrong), self.name) from None


def _unknown_flag(wrong: str, command: str) -> ConfigError:
    settings = settings_of(COMMANDS[command].settings)
    flags = [flag for s in settings for flag in (*s.flags, *s.off_flags)] + [f for fs in _SWITCHES.values() for f in fs]
    flags.append("--help")
    word = wrong.lstrip("-")
    guess = did_you_mean(word, [flag.lstrip("-") for flag in flags if flag.startswith("--")])
    if guess:
        guess = guess.replace("mean ", "mean --")
    else:
        keys = [setting.key for setting in settings if not setting.flags]
        guess = did_you_mean(word, keys).replace("?", "=VALUE, without dashes?")
    return ConfigError(f"no flag {wrong}{guess}", f"ldm {command} --help lists flags and keys")


def _arguments(command: str) -> list[Setting]:
    """Return the settings given by their place, in that order."""
    return [setting for setting in settings_of(COMMANDS[command].settings) if setting.argument]


def _parameter(name: str, kind: Any, declaration: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, declaration]
    )


def _parameter_name(setting: Setting) -> str:
    return "set_" + setting.key.replace(".", "__")


def _declared(setting: Setting) -> tuple[Any, Any]:
    """Return a setting's Typer type and declaration: a switch, or a text."""
    if setting.is_switch:
        flags = [f"{on}/{off}" for on, off in zip(setting.flags, setting.off_flags, strict=False)] or [*setting.flags]
        return bool | None, typer.Option(*flags)
    completion = completion_of(setting)
    return str | None, typer.Option(*setting.flags, metavar=setting.kind, autocompletion=completion)


def _help_groups(command: str) -> dict[str, list[help.Row]]:
    """Return headings and rows: the stage's own settings, its sections, what all stages have, the switches."""
    settings = settings_of(COMMANDS[command].settings)
    groups: dict[str, list[help.Row]] = {"Arguments": [(str(s.argument), s.help) for s in _arguments(command)]}
    for setting in settings:
        if setting.flags and setting.key not in Stage.model_fields:
            groups.setdefault(_heading(setting, command), []).append(_help_row(setting))
    groups["Run"] = [_help_row(setting) for setting in settings if setting.key in Stage.model_fields]
    groups["Other"] = [
        (_spelled(names, " RECIPE" if key == "recipe" else ""), _SWITCH_HELP[key])
        for key, names in _SWITCHES.items()
        if key != "recipe" or command not in TOOLS
    ]
    groups["Other"].append(("--help", "Show this page."))
    return groups


def _further(command: str) -> tuple[str, list[str]]:
    """Return the keys without a flag, and what to say above them."""
    keys = [
        setting.key for setting in settings_of(COMMANDS[command].settings) if not (setting.flags or setting.argument)
    ]
    shown = "" if command in TOOLS else f"; `ldm config show {command}` prints them with their values"
    return f"Further settings, as KEY=VALUE{shown}", keys


def _heading(setting: Setting, command: str) -> str:
    title = (setting.section or command).capitalize()
    return f"{title}, as the run's autoencoder was given it where nothing is said here" if setting.inherited else title


def _help_row(setting: Setting) -> help.Row:
    value = "" if setting.is_switch else f" {setting.kind}"
    default = ""
    if setting.default is not None and not setting.inherited:
        shown = setting.shown(setting.default)
        if setting.is_switch and setting.off_flags:
            shown = setting.flags[0] if setting.default else setting.off_flags[0]
        default = f" [{shown}]" if not setting.is_switch or setting.off_flags else ""
    names: Sequence[str] = setting.flags
    return _spelled(names, value, setting.off_flags), f"{setting.help}{default}"


def _spelled(names: Sequence[str], value: str = "", off: Sequence[str] = ()) -> str:
    return ", ".join(names) + "".join(f"/{name}" for name in off) + value
