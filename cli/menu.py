"""Groups of commands that are built when they are called for, so that help loads nothing it does not show."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup

from ..core.errors import ConfigError
from ..core.settings.words import did_you_mean
from . import examples, help
from .failures import UsageError


@dataclass(frozen=True)
class Entry:
    """A command in a menu: what builds it from its name, and what it is for."""

    build: Callable[[str], Any]
    summary: str


@dataclass(frozen=True)
class Offer:
    """What the shell is offered for a word, with the attributes that Typer writes it out by."""

    value: str
    help: str
    type: str = "plain"


class Menu(TyperGroup):
    """A command group: headings, and under each its commands. Aliases work and are not shown."""

    def __init__(
        self,
        headings: Mapping[str, Mapping[str, Entry]],
        aliases: Mapping[str, str] | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(**{**attributes, "rich_markup_mode": None})
        self.headings = headings
        self.entries = {name: entry for entries in headings.values() for name, entry in entries.items()}
        self.aliases = aliases or {}

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        name = self.aliases.get(cmd_name, cmd_name)
        if name not in self.entries:
            return None
        if name not in self.commands:
            self.commands[name] = self.entries[name].build(name)
        return self.commands[name]

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Offer commands from the entries, without building any, and the group's own options."""
        offered = [Offer(n, entry.summary) for n, entry in self.entries.items() if n.startswith(incomplete)]
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
            raise unknown_flag(self, ctx, error, "commands and flags") from None

    def manual(self, ctx: Any) -> help.Manual:
        """Return what the menu tells of itself."""
        groups = [
            (heading, [(name, entry.summary) for name, entry in entries.items()])
            for heading, entries in self.headings.items()
        ]
        usage = f"{ctx.command_path} COMMAND [ARGUMENTS]..."
        rows = [*groups, ("Options", option_rows(self, ctx))]
        return help.Manual(usage, self.help or "", rows, examples.EXAMPLES[self.name or ""])

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(help.page(self.manual(ctx)))


def unknown_flag(command: Any, ctx: Any, error: Exception, listed: str) -> Exception:
    """Return what to raise for a command line that cannot be read: with the nearest flag, if one is unknown.

    listed: what the command's help page lists.
    """
    wrong = getattr(error, "option_name", None)
    if type(error).__name__ != "NoSuchOption" or wrong is None:
        return error
    flags = [name for p in command.get_params(ctx) for name in p.opts if name.startswith("--")]
    return ConfigError(f"no flag {wrong}{did_you_mean(wrong, flags)}", f"{ctx.command_path} --help lists the {listed}")


def option_rows(command: Any, ctx: Any) -> list[help.Row]:
    """Return a command's options as rows of help."""
    options = [p for p in command.get_params(ctx) if p.param_type_name == "option" and not p.hidden]
    rows = [(f"{', '.join(reversed(p.opts))} {p.metavar or ''}".rstrip(), p.help or "") for p in options]
    return [(left, "Show this page." if left.startswith("--help") else right) for left, right in rows]
