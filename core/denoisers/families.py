"""The families of denoisers: one line each. Imports no torch."""

from ..settings.families import Family
from .dit_config import DiTConfig

FAMILIES: dict[str, Family] = {
    "dit": Family(DiTConfig, "dit:DiT", exporter="transformer"),
}
