"""Families of networks: the config of each declared once, its named sizes, and the `model` section made of both.

A network is built from its config, and users set the same fields. Its fields made by `option` are settings; the
others (the latents' shape, the number of classes) are given by the data. The section of a stage has a preset, which
names the family, and the settings of that family, each of them optional. Imports no torch.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, create_model, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import Self

from ..errors import ConfigError
from .fields import Section, is_option
from .words import did_you_mean, nearest


class NetworkConfig(Section):
    """What a network is built from. Raises ConfigError naming the field, its value and what is allowed.

    presets: the settings of the named sizes, lower case. default_preset: one of them. sizes: short list of names.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    default_preset: ClassVar[str]
    sizes: ClassVar[str]

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_as_config_error(cls, values: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            config = handler(values)
        except ValidationError as error:
            details = error.errors(include_url=False)
            unknown = [detail for detail in details if detail["type"] == "extra_forbidden"]
            raise ConfigError(_refused((unknown or details)[0], cls)) from None
        config.check()
        return config

    def check(self) -> None:
        """Raise ConfigError where fields do not fit together."""

    def replace(self, **fields: Any) -> Self:
        """Return the config with other values of some fields."""
        return type(self)(**{**dict(self), **fields})

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the config that was written as these values. Raises ConfigError, also where types differ."""
        config = cls(**values)
        written = config.model_dump(mode="json")
        for name, value in values.items():
            if value != written[name]:
                raise ConfigError(f"{name} is {value!r}, where {written[name]!r} would be written")
        return config

    @classmethod
    def settings(cls) -> dict[str, FieldInfo]:
        """Return the fields that users set."""
        return {name: field for name, field in cls.model_fields.items() if is_option(field)}


def _refused(detail: Any, config: type[NetworkConfig]) -> str:
    """Return the error of one field."""
    if not detail["loc"]:  # of a name with half of a surrogate pair, which is no text
        return f"the name of a setting is {str(detail['input'])[:80]!r}: {detail['msg']}"
    name = detail["loc"][0]
    if detail["type"] == "missing":
        return f"{name} is missing"
    if detail["type"] == "extra_forbidden":
        return f"unknown setting {name}{did_you_mean(name, config.model_fields)}"
    return f"{name} is {detail['input']!r}: {detail['msg'].replace('Input should', 'must')}"


@dataclass(frozen=True)
class Family:
    """A family of networks.

    network: `module:class` in the config's package, imported when needed; the config is the class's only argument.
    exporter: the module of `core.interchange` that expresses it in diffusers, where there is one.
    """

    config: type[NetworkConfig]
    network: str
    exporter: str | None = None

    def load_network(self) -> Callable[[Any], Any]:
        """Import the network's class."""
        module, _, name = self.network.partition(":")
        package = self.config.__module__.rpartition(".")[0]
        network: Callable[[Any], Any] = getattr(importlib.import_module(f"{package}.{module}"), name)
        return network


Families = Mapping[str, Family]


def preset_names(families: Families) -> tuple[str, ...]:
    """Return the names of the sizes of all families."""
    return tuple(name for family in families.values() for name in family.config.presets)


def family_of(preset: str, families: Families) -> str:
    """Return the family of a named size, in any case: `DiT-S/2` is of the family `dit`.

    Raises ConfigError naming the nearest for an unknown name.
    """
    for name, family in families.items():
        if preset.lower() in family.config.presets:
            return name
    known = preset_names(families)
    near = nearest(preset, known)
    raise ConfigError(f"unknown preset {preset!r}", f"did you mean {near}?" if near else f"use {', '.join(known)}")


def kind_of(config: NetworkConfig, families: Families) -> str:
    """Return the name of a config's family."""
    return next(name for name, family in families.items() if type(config) is family.config)


def config_of_preset(preset: str, families: Families, **fields: Any) -> NetworkConfig:
    """Return the config of a named size, in any case, with other fields given or changed. Raises ConfigError."""
    config = families[family_of(preset, families)].config
    return config(**{**config.presets[preset.lower()], **fields})


class FamilySection(Section):
    """A section with a preset and the settings of the preset's family.

    A subclass has the table of families, and its `preset` a default; validation returns an instance of the class that
    `section_of` makes for the family.
    """

    families: ClassVar[Families]
    family: ClassVar[str] = ""
    preset: str

    @classmethod
    def built(cls) -> Families:
        """Return the families that are built from settings: those with presets."""
        return {name: family for name, family in cls.families.items() if family.config.presets}

    @model_validator(mode="wrap")
    @classmethod
    def _take_the_presets_family(cls, values: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        if not isinstance(values, dict):
            return handler(values)
        if cls.family:
            return handler(cls._without_other_families(values))
        preset = values.get("preset", cls.model_fields["preset"].default)
        if not isinstance(preset, str) or preset.lower() not in preset_names(cls.families):
            return handler({"preset": preset})
        return section_of(cls, family_of(preset, cls.families)).model_validate(values)

    @classmethod
    def _without_other_families(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values without those that only other families have and that are null, as if they were not said.

        Raises ValidationError naming each such setting that is not null, and those that this family has.
        """
        own = cls.families[cls.family].config.settings()
        others = {name for family in cls.families.values() for name in family.config.settings()}
        foreign = [name for name in values if name in others and name not in cls.model_fields]
        details: list[InitErrorDetails] = []
        for name in foreign:
            if values[name] is not None:
                reason = f"not a setting of the {cls.family} family; it has {', '.join(own)}"
                error = PydanticCustomError("other_family", "{reason}", {"reason": reason})
                details.append({"type": error, "loc": (name,), "input": values[name]})
        if details:
            raise ValidationError.from_exception_data(cls.__name__, details)
        return {name: value for name, value in values.items() if name not in foreign}

    def network_config(self, **given: Any) -> NetworkConfig:
        """Return the config of the network. given: the fields that the data give. Raises ConfigError."""
        own = {name: getattr(self, name) for name in self.families[self.family].config.settings()}
        changed = {name: value for name, value in own.items() if value is not None}
        return config_of_preset(self.preset, self.families, **changed, **given)


def section_of(section: type[FamilySection], family: str) -> type[FamilySection]:
    """Return the section of one family: the settings of its config, each None where it is as the preset has it."""
    return _section_of(section, family, section.families[family].config)


@cache
def _section_of(section: type[FamilySection], family: str, config: type[NetworkConfig]) -> type[FamilySection]:
    preset = section.model_fields["preset"]
    default = preset.default if preset.default.lower() in config.presets else config.default_preset
    fields: dict[str, Any] = {"preset": _like(preset, str, default)}
    for name, declared in config.settings().items():
        fields[name] = _like(declared, declared.annotation | None, None)  # type: ignore[operator]
    made = create_model(f"{section.__name__} of {family}", __base__=section, **fields)
    made.family, made.__doc__ = family, section.__doc__
    return made


def _like(field: FieldInfo, annotation: Any, default: Any) -> tuple[Any, Any]:
    """Declare a field again, of another type and with another default."""
    for mark in field.metadata:
        annotation = Annotated[annotation, mark]
    return annotation, Field(default, description=field.description, json_schema_extra=field.json_schema_extra)
