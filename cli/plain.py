"""Commands that have no configuration: a Typer function, with the stages' help page and the nearest flag."""

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

from . import examples, help
from .failures import UsageError
from .menu import option_rows, unknown_flag


def plain_command(path: str, act: Callable[..., None], summary: str) -> "PlainCommand":
    """Build a command from a function with Typer's annotations.

    path: what is typed behind `ldm`, `recipes copy`; under it stand its examples.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    epilog = "\n".join(examples.EXAMPLES[path])
    app.command(path.split()[-1], cls=PlainCommand, help=summary, epilog=epilog)(act)
    built = typer.main.get_command(app)
    assert isinstance(built, PlainCommand)
    return built


class PlainCommand(TyperCommand):
    """A command with a help page like the stages', and the nearest flag for an unknown one."""

    def manual(self, ctx: Any) -> help.Manual:
        """Return what the command tells of itself."""
        arguments: list[Any] = [p for p in self.get_params(ctx) if p.param_type_name == "argument"]
        shown = "".join(f" {p.metavar}" if p.required else f" [{p.metavar}]" for p in arguments)
        rows = [("Arguments", [(p.metavar, p.help or "") for p in arguments]), ("Options", option_rows(self, ctx))]
        usage = f"{ctx.command_path}{shown} [OPTIONS]"
        return help.Manual(usage, self.help or "", rows, (self.epilog or "").splitlines())

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(help.page(self.manual(ctx)))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            raise unknown_flag(self, ctx, error, "flags") from None
