"""Commands and groups of them: with help pages of ours, and the nearest flag or command for an unknown one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from ..core.errors import ConfigError
from ..core.settings.words import did_you_mean, nearest
from . import examples, help
from .failures import UsageError


class Command(TyperCommand):
    """A command. usage: what is typed behind its name; arguments: those by place; keys: settings without a flag."""

    usage: str
    arguments: Sequence[help.Row]
    keys: tuple[str, Sequence[str]] = ("", ())

    def manual(self, ctx: Any) -> help.Manual:
        """Return what the command's help shows."""
        groups = [("Arguments", self.arguments), *_option_groups(self, ctx)]
        examples = (self.epilog or "").splitlines()
        return help.Manual(f"{ctx.command_path} {self.usage}", self.help or "", groups, examples, self.keys)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(help.page(self.manual(ctx)))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            raise _unknown_flag(self, ctx, error, self.keys[1]) from None


def build_command(name: str, act: Callable[..., Any], summary: str, shown: Sequence[str]) -> Command:
    """Build a command from a function with Typer's annotations. shown: its examples."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name, cls=Command, help=summary, epilog="\n".join(shown))(act)
    built = typer.main.get_command(app)
    assert isinstance(built, Command)
    arguments: list[Any] = [p for p in built.params if p.param_type_name == "argument"]
    built.usage = " ".join([*(p.metavar if p.required else f"[{p.metavar}]" for p in arguments), "[OPTIONS]"])
    built.arguments = [(p.metavar, p.help or "") for p in arguments]
    return built


def plain_command(path: str, act: Callable[..., None], summary: str) -> Command:
    """Build a command that has no configuration. path: what is typed behind `ldm`, `recipes copy`."""
    return build_command(path.split()[-1], act, summary, examples.examples_of(path))


@dataclass(frozen=True)
class Offer:
    """What the shell is offered for a word, with the attributes that Typer writes it out by."""

    value: str
    help: str
    type: str = "plain"


class Menu(TyperGroup):
    """A group of commands: headings, and under each the names of commands and what they are for.

    build: makes a command from its name when it is called for, so that help loads nothing that it does not show.
    aliases: other names, which are not shown.
    """

    def __init__(
        self,
        headings: Mapping[str, Mapping[str, str]],
        build: Callable[[str], Any],
        aliases: Mapping[str, str] | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(**{**attributes, "rich_markup_mode": None})
        self.headings, self.build, self.aliases = headings, build, aliases or {}
        self.entries = {name: summary for entries in headings.values() for name, summary in entries.items()}

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        name = self.aliases.get(cmd_name, cmd_name)
        if name in self.entries and name not in self.commands:
            self.commands[name] = self.build(name)
        return self.commands.get(name)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Offer commands from the entries, without building any, and the group's own options."""
        offered = [Offer(name, summary) for name, summary in self.entries.items() if name.startswith(incomplete)]
        return [*offered, *super(TyperGroup, self).shell_complete(ctx, incomplete)]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            guess = did_you_mean(args[0], [*self.entries, *self.aliases])
            raise ConfigError(f"no command {args[0]}{guess}", f"{ctx.command_path} --help lists the commands")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            ctx.exit(2)
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            raise _unknown_flag(self, ctx, error) from None

    def manual(self, ctx: Any) -> help.Manual:
        """Return what the group's help shows."""
        groups = [(heading, [*entries.items()]) for heading, entries in self.headings.items()]
        usage = f"{ctx.command_path} COMMAND [ARGUMENTS]..."
        return help.Manual(
            usage, self.help or "", [*groups, *_option_groups(self, ctx)], (self.epilog or "").splitlines()
        )

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(help.page(self.manual(ctx)))


def _unknown_flag(command: Any, ctx: Any, error: Exception, keys: Sequence[str] = ()) -> Exception:
    """Return what to raise for a command line that cannot be read: for an unknown flag with the nearest flag or key."""
    wrong = getattr(error, "option_name", None)
    if type(error).__name__ != "NoSuchOption" or wrong is None:
        return error
    flags = [flag for p in command.get_params(ctx) for flag in (*p.opts, *p.secondary_opts) if flag.startswith("--")]
    word = wrong.lstrip("-")
    guess = ""
    if near := nearest(word, [flag.lstrip("-") for flag in flags]):
        guess = f"; did you mean --{near}?"
    elif near := nearest(word, keys):
        guess = f"; did you mean {near}=VALUE, without dashes?"
    listed = "flags and keys" if keys else "the flags"
    return ConfigError(f"no flag {wrong}{guess}", f"{ctx.command_path} --help lists {listed}")


def _option_groups(command: Any, ctx: Any) -> list[tuple[str, list[help.Row]]]:
    """Return a command's options as rows of help under their headings; one without it is under that before it."""
    groups: dict[str, list[help.Row]] = {}
    for option in [p for p in command.get_params(ctx) if p.param_type_name == "option" and not p.hidden]:
        spelled = ", ".join(option.opts) + "".join(f"/{flag}" for flag in option.secondary_opts)
        shown = "Show this page." if option.name == "help" else option.help or ""
        heading = getattr(option, "rich_help_panel", None) or next(reversed(groups), "Options")
        groups.setdefault(heading, []).append((f"{spelled} {option.metavar or ''}".rstrip(), shown))
    return [*groups.items()]
