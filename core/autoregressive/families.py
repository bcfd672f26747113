"""The families of generators that predict tokens: one line each. Imports no torch."""

from ..settings.families import Family
from .var_config import NextScaleConfig

FAMILIES: dict[str, Family] = {
    "var": Family(NextScaleConfig, "var:NextScaleTransformer"),
}
