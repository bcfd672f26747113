"""`ldm config reference`: the pages of all commands and of all settings, from what the command line is made of."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import ConfigError
from ..core.files import write_atomically
from ..core.progress import Outcome
from ..stages.table import STAGES
from .commands import Menu
from .console import open_console
from .markdown import MADE, codes, escaped
from .settings_page import settings_page

_COMMANDS = """# Commands

What `--help` shows, on one page. A default stands in brackets behind its flag. Where a command takes `KEY=VALUE`, each
of its [settings](settings.md) can be given so, with a flag of its own or without.
"""


def write_reference(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where commands.md and settings.md are written.")],
) -> None:
    """Write the pages that differ from what is there."""
    if not Path(folder).is_dir():
        raise ConfigError(f"{folder} is not a folder", "make it first, or give another")
    changed = []
    for name, text in pages().items():
        path = Path(folder) / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, partial(_write, text))
            changed.append(name)
    with open_console() as console:
        summary = {"changed": ", ".join(changed) or "nothing"}
        console.outcome("config reference", Outcome(Path(folder), already_complete=not changed, summary=summary))


def pages() -> dict[str, str]:
    """Return the pages, Markdown, by file name."""
    return {"commands.md": commands_page(), "settings.md": settings_page()}


def commands_page() -> str:
    """Return the page of every command: usage, flags, examples."""
    from .main import app

    root: Any = typer.main.get_command(app)
    context = root.context_class(root, info_name="ldm")
    lines = [MADE, _COMMANDS, *_manual(root, context)]
    for heading, entries in root.headings.items():
        lines += [f"## {heading}", ""]
        for name in entries:
            lines += _section(root, name, context, 3)
    return "\n".join(lines).rstrip() + "\n"


def _section(menu: Any, name: str, above: Any, depth: int) -> Iterator[str]:
    """Yield the section of one command of a menu, and those of the commands in it."""
    command = menu.get_command(above, name)
    context = command.context_class(command, info_name=name, parent=above)
    yield f"{'#' * depth} {context.command_path.removeprefix('ldm ')}"
    yield ""
    others = [f"`ldm {alias}`" for alias, known in menu.aliases.items() if known == name]
    if others:
        yield f"Also {', '.join(others)}."
        yield ""
    # A menu of the stages repeats their flags for each: one of them says it all.
    shown = [*command.entries] if isinstance(command, Menu) and set(command.entries) != set(STAGES) else []
    yield from _manual(command, context)
    for entry in shown:
        yield from _section(command, entry, context, depth + 1)


def _manual(command: Any, context: Any) -> Iterator[str]:
    manual = command.manual(context)
    yield from (manual.summary, "", "```", manual.usage, "```", "")
    for heading, rows in manual.groups:
        if rows:
            yield from (f"**{escaped(heading)}**", "")
            yield from (f"- `{left}` {escaped(right)}".rstrip() for left, right in rows)
            yield ""
    heading, keys = manual.further
    if keys:
        linked = f"[{command.name}](settings.md#{command.name.replace(' ', '-')})"
        yield from (f"**Further settings, as KEY=VALUE**, described under {linked}: {codes(keys)}", "")
    yield from ("```sh", *manual.examples, "```", "")


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
