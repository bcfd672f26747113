"""`ldm config reference`: the pages of all commands and of all settings, from what the command line is made of."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import ConfigError
from ..core.files import write_bytes
from ..core.progress import Outcome
from ..core.settings.families import FamilySection, NetworkConfig
from ..core.settings.fields import Section, Stage
from ..core.settings.words import typed
from ..stages.table import COMMANDS, STAGES, TOOLS
from .commands import Menu
from .console import open_console
from .keys import Setting, sections_of, settings_of
from .text import codes, escaped
from .values import takes

_COMMANDS = """# Commands

What `--help` shows, on one page. A default stands in brackets behind its flag. Where a command takes `KEY=VALUE`, each
of its [settings](settings.md) can be given so, with a flag of its own or without.
"""
_SETTINGS = """# Settings

Every setting of every command: as a flag where it has one, as `section.key=value` behind the command, or in a recipe
under the stage's name:

```yaml
data: {source: photos, image_size: 64}   # shared by every stage that has it
train-dit:
  train: {images: 2M, lr: 1e-4}
```

Flags win over `key=value`, these over the recipe (`-c`), and the recipe over the defaults. A count is a whole number
that may end in k, M or G, and `null` is nothing, as if it had not been said. `ldm config show train-dit -c mnist`
prints what they come to, and where each was set.

† A run may go on with another value. A change of any other setting makes it another run, which needs `--replace` or
another `--name`.
"""
_MODELS = {name: command.settings for name, command in COMMANDS.items()}
MADE = "<!-- Written by `ldm config reference docs`; edit the program's help instead. -->"


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
            write_bytes(path, text.encode())
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


def settings_page() -> str:
    """Return the page of every setting: key, flag, what it takes, default, help."""
    lines = [MADE, _SETTINGS, "## Shared by several commands", ""]
    shared = _shared()
    users = [command for command, model in _MODELS.items() if set(settings_of(Stage)) <= set(settings_of(model))]
    lines += ["### Which run", "", f"Settings of {codes(users)}.", "", *_table(Stage, ""), ""]
    for name, commands in shared.items():
        inheriting = [command for command in commands if _is_inherited(name, _MODELS[command])]
        taken = f" What is not said to {codes(inheriting)} is taken from the run's autoencoder." if inheriting else ""
        model = sections_of(_MODELS[commands[0]])[name]
        lines += [f"### Section {name}", "", f"Of {codes(commands)}.{taken}", "", *_table(model, f"{name}."), ""]
    for heading, group in (("Stages", STAGES), ("Tools", TOOLS)):
        lines += [f"## {heading}", ""]
        for command in group:
            lines += [f"### {command}", "", COMMANDS[command].summary, "", *_of_command(command, shared)]
    return "\n".join([*lines, *_presets()]).rstrip() + "\n"


def _is_inherited(section: str, model: type[Section]) -> bool:
    return any(setting.inherited for setting in settings_of(model) if setting.section == section)


def _shared() -> dict[str, list[str]]:
    """Return sections that several commands have alike, by name, with those commands."""
    found: dict[str, list[str]] = {}
    for command, model in _MODELS.items():
        for name in sections_of(model):
            found.setdefault(name, []).append(command)
    alike = {name: {sections_of(_MODELS[command])[name] for command in commands} for name, commands in found.items()}
    return {name: commands for name, commands in found.items() if len(commands) > 1 and len(alike[name]) == 1}


def _of_command(command: str, shared: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield a command's own settings, its own sections', and where to find the others."""
    model = _MODELS[command]
    usual = [s for s in settings_of(Stage) if s in settings_of(model)]
    own = _table(model, "", frozenset(setting.key for setting in usual))
    if own:
        yield from (*own, "")
    for name, section in sections_of(model).items():
        if name not in shared:
            yield from (f"#### {name} of {command}", "", (inspect.getdoc(section) or "").partition("\n")[0], "")
            yield from (*_table(section, f"{name}."), "")
    linked = [f"[{name}](#section-{name})" for name in sections_of(model) if name in shared]
    if usual:
        linked.insert(0, f"{codes(setting.key for setting in usual)} of [which run](#which-run)")
    if linked:
        yield from (f"And {', '.join(linked)}.", "")


def _table(model: type[Section], prefix: str, but: frozenset[str] = frozenset()) -> list[str]:
    """Return a table of a model's own settings, or nothing."""
    own = [s for s in settings_of(model) if not s.section and s.key not in but]
    rows = [_row(setting, prefix) for setting in own]
    return ["| setting | takes | default | what it is |", "|---|---|---|---|", *rows] if rows else []


def _row(setting: Setting, prefix: str) -> str:
    typed = [setting.argument] if setting.argument else [*setting.flags, *setting.off_flags]
    flags = "".join(f"<br>`{flag}`" for flag in typed)
    may_change = "" if setting.identity else " †"
    default = ""
    if setting.required:
        default = "must be given"
    elif setting.default is not None:
        default = f"`{setting.shown(setting.default)}`"
    cells = (
        f"`{prefix}{setting.key}`{_of_families(setting)}{may_change}{flags}",
        takes(setting),
        default,
        escaped(setting.help),
    )
    return _line(cells)


def _of_families(setting: Setting) -> str:
    """Name the families that have a setting of a network, where not all of them do."""
    return f" ({', '.join(setting.families)})" if setting.families else ""


def _presets() -> Iterator[str]:
    """Yield tables of the networks that have a name."""
    yield from (
        "## Named networks",
        "",
        "What `model.preset` stands for; a setting of section `model` changes one of it.",
    )
    commands: dict[tuple[str, type[NetworkConfig]], list[str]] = {}
    for command in STAGES:
        section = sections_of(_MODELS[command]).get("model")
        if section is not None and issubclass(section, FamilySection):
            for name, family in section.built().items():
                commands.setdefault((name, family.config), []).append(command)
    for (name, config), users in commands.items():
        yield from ("", f"### Family {name}: presets of {' and '.join(users)}", "", *_presets_table(config))


def _presets_table(config: type[NetworkConfig]) -> Iterator[str]:
    usual = {name: field.default for name, field in config.settings().items()}
    presets = {name: {**usual, **given} for name, given in config.presets.items()}
    shown = {key: ["" if values[key] is None else typed(values[key]) for values in presets.values()] for key in usual}
    same = {key: column.pop() for key, values in shown.items() if len(column := set(values)) == 1}
    columns = {"preset": [f"`{name}`" for name in presets]} | {k: v for k, v in shown.items() if k not in same}
    yield from (_line(columns), "|---" * len(columns) + "|")
    yield from map(_line, zip(*columns.values(), strict=True))
    if same:
        yield from ("", f"All of them: {', '.join(f'`{key}` {value}' for key, value in same.items())}.")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
