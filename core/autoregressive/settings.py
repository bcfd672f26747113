"""The network of a generator of tokens: the `model` section of the stage that trains it. Imports no torch."""

from functools import partial
from typing import Annotated, ClassVar

from ..settings.families import Families, FamilySection, preset_names
from ..settings.fields import OneOf, option
from .families import FAMILIES

_USUAL = next(iter(FAMILIES.values())).config


class NextScaleModel(FamilySection):
    """The transformer: a preset, and what differs from it."""

    families: ClassVar[Families] = FAMILIES

    preset: Annotated[str, OneOf(partial(preset_names, FAMILIES))] = option(
        _USUAL.default_preset, f"Named network size: {_USUAL.sizes}.", "--preset"
    )
