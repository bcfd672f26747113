"""The table of training objectives, by the names that settings take."""

from .consistency import Consistency
from .names import CONSISTENCY, FIXED_NOISE
from .objective import Denoising, FixedNoise

OBJECTIVES: dict[str, type] = {"denoising": Denoising, FIXED_NOISE: FixedNoise, CONSISTENCY: Consistency}
"""Dataclasses: what is in a field comes from the setting of that name in `diffusion`, and the schedule from several."""
