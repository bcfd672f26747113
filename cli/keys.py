"""What can be set: every key of a stage's configuration with its flags, kind, default and help."""

import dataclasses
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ..core.settings.families import FamilySection, section_of
from ..core.settings.fields import OneOf, Section, parse_count
from ..core.settings.words import typed

# `X | None` is a Union before Python 3.14 reads it as one everywhere.
_UNIONS = (Union, type(int | None))


@dataclass(frozen=True)
class Setting:
    """One key of a configuration.

    key: dotted, `train.lr`. flags: what sets it to a value or switches it on; empty where only `key=value` reaches it.
    argument: its name in help if it is given by its place, without a flag.
    off_flags: what switches it off. kind: what a value looks like, for help. choices: all values, where there are few.
    names: all values of a text that has to be one of them, in any case.
    families: those whose networks have it, where others lack it. field: as it was declared.
    inherited: whether the stage takes it from the stage before it where it is not given, and not the default.
    identity: whether a run with another value is another run.
    """

    key: str
    flags: tuple[str, ...]
    off_flags: tuple[str, ...]
    kind: str
    choices: tuple[str, ...]
    default: Any
    help: str
    identity: bool
    field: FieldInfo = dataclasses.field(compare=False, repr=False)
    inherited: bool = False
    argument: str | None = None
    names: tuple[str, ...] = ()
    families: tuple[str, ...] = ()

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is PydanticUndefined

    @property
    def section(self) -> str:
        """The section that holds it; empty for the stage's own settings."""
        return self.key.rpartition(".")[0]

    @property
    def is_switch(self) -> bool:
        return self.kind == "yes|no"

    @property
    def is_list(self) -> bool:
        return self.kind.startswith("A,B")

    def typed(self, value: str | None = None) -> str:
        """Return what sets it to a value, or what it is called: `--cfg 3`, `--no-flip`, `train.decay=cosine`.

        An argument by place is its value alone.
        """
        if self.is_switch and value in ("yes", "no", None) and self.flags:
            return self.off_flags[0] if value == "no" and self.off_flags else self.flags[0]
        name = self.flags[0] if self.flags else self.argument or self.key
        if value is None or self.flags:
            return name if value is None else f"{name} {value}"
        return value if self.argument else f"{name}={value}"

    def shown(self, value: Any) -> str:
        """Return a value as one would type it."""
        return short_count(value) if self.kind == "COUNT" and isinstance(value, int) else typed(value)


@cache
def settings_of(model: type[Section]) -> tuple[Setting, ...]:
    """List every setting of a configuration, sections in the order of their declaration, the stage's own first."""
    if issubclass(model, FamilySection) and not model.family:
        return _of_all_families(model)
    own: list[Setting] = []
    nested: list[Setting] = []
    sections = sections_of(model)
    for name, field in model.model_fields.items():
        if name in sections:
            extra = field.json_schema_extra
            inherited = isinstance(extra, dict) and bool(extra["inherited"])
            for setting in settings_of(sections[name]):
                nested.append(replace(setting, key=f"{name}.{setting.key}", inherited=inherited))
        else:
            own.append(_setting(name, field))
    return (*own, *nested)


def _of_all_families(section: type[FamilySection]) -> tuple[Setting, ...]:
    """Return the settings that all families share, then those of each, each once."""
    found: dict[str, Setting] = {}
    for name in section.built():
        for setting in settings_of(section_of(section, name)):
            known = found.setdefault(setting.key, setting)
            if setting.key not in section.model_fields:
                found[setting.key] = replace(known, families=(*known.families, name))
            elif setting.key == "preset":
                found[setting.key] = _setting("preset", section.model_fields["preset"])
    # What all have belongs to no family in particular.
    common = tuple(section.built())
    return tuple(replace(s, families=()) if s.families == common else s for s in found.values())


def sections_of(model: type[Section]) -> dict[str, type[Section]]:
    """Return the sections of a configuration by name."""
    kinds = {name: field.annotation for name, field in model.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}


def find(model: type[Section], key: str) -> Setting | None:
    """Return the setting of that dotted key, if there is one."""
    return next((setting for setting in settings_of(model) if setting.key == key), None)


def short_count(value: int) -> str:
    """Write a count as one would type it: 2500000 as 2.5M, 12345 as 12345."""
    for size, suffix in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if value >= size and value * 10 % size == 0:
            return f"{value / size:g}{suffix}"
    return str(value)


def _setting(name: str, field: FieldInfo) -> Setting:
    extra = field.json_schema_extra
    assert isinstance(extra, dict), f"{name} was not declared by `option`"
    declared = str(extra["flag"] or "")
    words = declared.split(",") if declared else []
    argument = words.pop(0) if words and not declared.startswith("-") else None
    on, _, off = ",".join(words).partition("/")
    return Setting(
        key=name,
        flags=tuple(filter(None, on.split(","))),
        off_flags=tuple(filter(None, off.split(","))),
        kind=_kind(field),
        choices=tuple(map(str, get_args(bare(field.annotation)))) if _is_literal(field.annotation) else (),
        default=field.default,
        help=field.description or "",
        identity=bool(extra["identity"]),
        field=field,
        argument=argument,
        names=_names(field),
    )


def bare(annotation: Any) -> Any:
    """Strip `Annotated` and `| None` from a type."""
    if get_origin(annotation) is Annotated:
        return bare(get_args(annotation)[0])
    if get_origin(annotation) in _UNIONS:
        return bare(next(member for member in get_args(annotation) if member is not type(None)))
    return annotation


def _names(field: FieldInfo) -> tuple[str, ...]:
    """Return what a text has to be one of; the mark stands at the type, which `| None` may hide."""
    hidden = [mark for member in get_args(field.annotation) for mark in getattr(member, "__metadata__", ())]
    return next((mark.names for mark in (*field.metadata, *hidden) if isinstance(mark, OneOf)), ())


def _is_literal(annotation: Any) -> bool:
    return get_origin(bare(annotation)) is Literal


def _kind(field: FieldInfo) -> str:
    if any(isinstance(mark, BeforeValidator) and mark.func is parse_count for mark in field.metadata):
        return "COUNT"
    kind = bare(field.annotation)
    if _is_literal(kind):
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        items = get_args(kind)
        return "TEXTS" if items[0] is str else "A,B,…" if Ellipsis in items else ",".join("ABCD"[: len(items)])
    return {bool: "yes|no", int: "INTEGER", float: "NUMBER", Path: "PATH"}.get(kind, "TEXT")
