"""The page of every setting: key, flags, what it takes, default and help, from the commands' configurations."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic.fields import FieldInfo

from ..core.settings.families import FamilySection, NetworkConfig
from ..core.settings.fields import Section, Stage
from ..stages.table import COMMANDS, STAGES, TOOLS
from .keys import Setting, sections_of, settings_of
from .markdown import MADE, codes, escaped
from .values import takes

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


def settings_page() -> str:
    """Return the page of every setting: key, flag, what it takes, default, help."""
    lines = [MADE, _SETTINGS, "## Shared by several commands", ""]
    shared = _shared()
    users = [command for command, model in _MODELS.items() if set(settings_of(Stage)) <= set(settings_of(model))]
    lines += ["### Which run", "", f"Settings of {codes(users)}.", "", *_table(Stage, ""), ""]
    for name, commands in shared.items():
        inheriting = [command for command in commands if _mark(_MODELS[command].model_fields[name], "inherited")]
        told = f" What is not said to {codes(inheriting)} is taken from the run's autoencoder." if inheriting else ""
        model = sections_of(_MODELS[commands[0]])[name]
        lines += [f"### Section {name}", "", f"Of {codes(commands)}.{told}", "", *_table(model, f"{name}."), ""]
    for heading, group in (("Stages", STAGES), ("Tools", TOOLS)):
        lines += [f"## {heading}", ""]
        for command in group:
            lines += [f"### {command}", "", COMMANDS[command].summary, "", *_of_command(command, shared)]
    return "\n".join([*lines, *_presets()]).rstrip() + "\n"


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
    may_change = "" if _mark(setting.field, "identity") else " †"
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


def _mark(field: FieldInfo, name: str) -> bool:
    """Return what a field was declared with."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra[name])


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
            for name, family in section.families.items():
                commands.setdefault((name, family.config), []).append(command)
    for (name, config), users in commands.items():
        yield from ("", f"### Family {name}: presets of {' and '.join(users)}", "", *_presets_table(config))


def _presets_table(config: type[NetworkConfig]) -> Iterator[str]:
    usual = {name: field.default for name, field in config.settings().items()}
    presets = {name: {**usual, **given} for name, given in config.presets.items()}
    shown = {key: [_number(values[key]) for values in presets.values()] for key in usual}
    same = {key: column.pop() for key, values in shown.items() if len(column := set(values)) == 1}
    columns = {"preset": [f"`{name}`" for name in presets]} | {k: v for k, v in shown.items() if k not in same}
    yield from (_line(columns), "|---" * len(columns) + "|")
    yield from map(_line, zip(*columns.values(), strict=True))
    if same:
        yield from ("", f"All of them: {', '.join(f'`{key}` {value}' for key, value in same.items())}.")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: Any) -> str:
    """Return a preset's value as one would type it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else "" if value is None else str(value)
