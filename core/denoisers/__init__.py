"""Denoising networks. Every family has the same names: KINDS, PRESETS, build, save, load."""

from .registry import KINDS, PRESETS, build, load, preset, read_config, save

__all__ = ["KINDS", "PRESETS", "build", "load", "preset", "read_config", "save"]
