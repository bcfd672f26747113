"""Building blocks of every stage's configuration: options with flags, shared sections, counts like `1M`.

A configuration is a frozen pydantic model. Each field made by `option` carries its help text, the flag that sets it
(if it has one) and whether it is part of a run's identity: settings that only say how the work is carried out
(device, worker count) may differ when a run continues.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from functools import partial
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

_SUFFIX = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


def parse_count(value: object) -> object:
    """Read `1M`, `2.5k`, `60_000` or `1e6` as a whole number; leave anything else for pydantic to refuse."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d[\d_]*\.?\d*(?:e\d{1,2})?)\s*([kmg]?)\s*", value.lower(), re.ASCII)
    if match is None:
        return value
    number = Decimal(match[1].replace("_", "")) * _SUFFIX[match[2]]
    return int(number) if number == int(number) else value


def read_number(value: object) -> object:
    """Read a whole number that is typed: for settings that are one of a few; leave anything else for pydantic."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"\s*\d{1,9}\s*", value, re.ASCII) else value


Count = Annotated[int, BeforeValidator(parse_count), Field(ge=0)]


def _not_empty(value: Any) -> Any:
    if isinstance(value, str) and not value.strip():
        raise ValueError("an empty path; is a variable not set?")
    return value


Location = Annotated[Path, BeforeValidator(_not_empty), PlainSerializer(lambda path: path.as_posix(), return_type=str)]
Place = Annotated[str, AfterValidator(_not_empty)]
"""A path, or what else a command reads by that name: a pattern, built-in data."""


def read_seeds(text: str) -> list[int]:
    """Return the seeds that a text lists: `0-15`, `3,7,20`. Raises ValueError for another text, or a seed twice."""
    seeds: dict[int, None] = {}
    for part in text.split(","):
        span = re.fullmatch(r"\s*(\d{1,19})(?:\s*-\s*(\d{1,19}))?\s*", part, re.ASCII)
        if span is None:
            raise ValueError(f"{part.strip()!r} is not a seed; write them as 0-15 or 3,7,20")
        first, last = int(span[1]), int(span[2] or span[1])
        if last < first:
            raise ValueError(f"{part.strip()} runs backwards; write {last}-{first}")
        if last >= 2**63 or len(seeds) + last - first >= _MOST_SEEDS:
            raise ValueError(f"{part.strip()}: seeds are less than 2^63, and at most {_MOST_SEEDS:,}")
        twice = next((seed for seed in range(first, last + 1) if seed in seeds), None)
        if twice is not None:
            raise ValueError(f"{twice} is given twice")
        seeds.update(dict.fromkeys(range(first, last + 1)))
    return list(seeds)


def _of_seeds(text: str) -> str:
    read_seeds(text)
    return re.sub(r"\s", "", text)


_MOST_SEEDS = 1_000_000
Seeds = Annotated[str, AfterValidator(_of_seeds)]
"""Seeds as a text: numbers and ranges, with commas."""
Texts = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""Texts of any content: a flag that is typed several times, or all words of an argument."""


def _stay_inside(name: str) -> str:
    parts = PurePath(name).parts
    if not parts or ".." in parts or PurePath(name).is_absolute():
        raise ValueError("must be a name, without .. or a leading /")
    return name


def _single(name: str) -> str:
    if len(PurePath(_stay_inside(name)).parts) > 1:
        raise ValueError("must be one name, without /")
    if name in RESERVED_LABELS:
        raise ValueError(f"must not be {name}, where `ldm eval` writes its evaluation of those")
    return name


RESERVED_LABELS = ("reconstructions", "likelihood")
Name = Annotated[str, AfterValidator(_stay_inside)]
"""Name of a folder, or a relative path below its parent."""
Names = Annotated[Texts, AfterValidator(lambda names: tuple(map(_stay_inside, names)))]
"""Several of these."""
Label = Annotated[str, AfterValidator(_single)]
"""Name of a folder of samples and of their evaluation."""


@dataclass(frozen=True)
class OneOf:
    """Restricts a text to some names, in any case; the value is in lower case. known: returns the names there are."""

    known: Callable[[], Iterable[str]]

    @property
    def names(self) -> tuple[str, ...]:
        """The names known now: families may be added."""
        return tuple(self.known())

    def __get_pydantic_core_schema__(self, kind: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(kind))

    def _check(self, name: str) -> str:
        if name.lower() not in self.names:
            raise ValueError(f"must be one of {', '.join(self.names)}")
        return name.lower()


def option(
    default: Any,
    help: str,
    flag: str | None = None,
    identity: bool | Literal["contents"] = True,
    **limits: Any,
) -> Any:
    """Declare a setting.

    flag: its command-line name (`--x`, several split by `/` for a switch and its opposite; a word without dashes is
    a positional argument), None for settings that only `section.key=value` and recipes reach. identity:
    whether a run made with another value is another run; "contents" where what the path holds counts, as an input of
    the stage, and not the path itself.
    """
    return Field(default, description=help, json_schema_extra={"flag": flag, "identity": identity}, **limits)


def is_option(field: FieldInfo) -> bool:
    """Return whether a field was declared by `option`."""
    return isinstance(field.json_schema_extra, dict) and "flag" in field.json_schema_extra


def is_incidental(field: FieldInfo) -> bool:
    """Return whether a setting, or a section of settings, only says how the work is done."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and extra.get("identity", False) is False


def section(kind: type["Section"], inherited: bool = False) -> Any:
    """Declare a group of settings. It is built on first use, so that help pages load fast.

    inherited: whether missing settings are taken from the stage before, and not from the defaults.
    """
    return Field(default_factory=partial(kind.model_validate, {}), json_schema_extra={"inherited": inherited})


class Section(BaseModel):
    """A group of settings: frozen, without unknown keys; numbers are finite.

    defaults: other defaults for fields of the base class: `class Own(Train, defaults={"lr": 1e-3})`.
    former: of settings whose default has changed, what it was before. examples: of a command that has these settings,
    for its help.
    """

    former: ClassVar[Mapping[str, Any]] = {}
    examples: ClassVar[tuple[str, ...]] = ()
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True)

    def __init_subclass__(cls, defaults: Mapping[str, Any] | None = None, **config: Any) -> None:
        super().__init_subclass__(**config)

    @classmethod
    def __pydantic_init_subclass__(cls, defaults: Mapping[str, Any] | None = None, **config: Any) -> None:
        for name, value in (defaults or {}).items():
            cls.model_fields[name].default = value

    def require_places(self) -> None:
        """Raise DataError for a place that is not there, where it has to be: before anything heavy is loaded."""


AnySection = TypeVar("AnySection", bound=Section)


class Run(Section):
    """Which run a command works in."""

    name: Name = option("default", "Run to work in: the folder RUNS_DIR/NAME.", "--name", identity=False)
    runs_dir: Location = option(Path("runs"), "Folder that holds the runs.", "--runs-dir", identity=False)

    @property
    def root(self) -> Path:
        """The run's folder."""
        return self.runs_dir / self.name


ENDING = ("images", "decay_images", "cooldown")  # of `train`: what may change where a training goes on


class Stage(Run):
    """Where a stage works, and with which seed: the settings that all stages have.

    command: the stage's `ldm` command. kind: of the directory that it writes, and that directory's name in a run.
    """

    command: ClassVar[str]
    kind: ClassVar[str]

    seed: int = option(0, "Seed of every random draw; random chooses one and says which.", "--seed", ge=0, lt=2**63)
    replace: bool = option(
        False, "Discard what the output folder holds if it was made with other settings or inputs.", "--replace", False
    )

    def how_to_go_on(self, recorded: Mapping[str, Any], elsewhere: str) -> str | None:
        """Return how work of fewer `train.images` goes on to these; nothing where it may, None without such a length.

        recorded: its section `train`. elsewhere: the remedy where it cannot.
        """
        return None


def identity(section: Section) -> dict[str, Any]:
    """Return the settings that identify a run, JSON: those that only say how the work is done are left out."""
    chosen: dict[str, Any] = {}
    dumped = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            chosen[name] = identity(value)
        elif isinstance(field.json_schema_extra, dict) and field.json_schema_extra["identity"]:
            chosen[name] = dumped[name]
    return chosen


def as_formerly(section: AnySection) -> AnySection:
    """Return settings of which those that nobody gave have the defaults of before, where these have changed."""
    given = section.model_fields_set
    changes = {name: value for name, value in section.former.items() if name not in given}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section) and (before := as_formerly(value)) is not value:
            changes[name] = before
    return section.model_copy(update=changes) if changes else section


def incidental(section: Section) -> frozenset[str]:
    """Return the other settings, dotted: those that only say how the work is done."""
    return _declared(section, False)


def places(section: Section) -> frozenset[str]:
    """Return the settings, dotted, that name what a stage reads: their contents identify a run, not the names."""
    return _declared(section, "contents")


def _declared(section: Section, wanted: object) -> frozenset[str]:
    names: set[str] = set()
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            names |= {f"{name}.{inner}" for inner in _declared(value, wanted)}
        elif isinstance(field.json_schema_extra, dict) and field.json_schema_extra["identity"] == wanted:
            names.add(name)
    return frozenset(names)


def shared_fields(made: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """Make a dataclass of the values, such as settings, that bear the names of its fields."""
    return made(**{field.name: values[field.name] for field in fields(made) if field.name in values})  # type: ignore[arg-type]


def defaults(model: type[Section], recorded: Mapping[str, Any]) -> Section:
    """Return a configuration with defaults, except for the recorded presets that are known: they name families."""
    presets = {
        name: {"preset": value["preset"]}
        for name, value in recorded.items()
        if isinstance(value, Mapping) and isinstance(value.get("preset"), str) and name in model.model_fields
    }
    try:
        return model.model_validate(presets)
    except ValidationError as error:  # They were recorded by another version, or are damaged.
        unknown = {name for found in error.errors() for name in found["loc"][:1]} or presets.keys()
        return model.model_validate({name: preset for name, preset in presets.items() if name not in unknown})
