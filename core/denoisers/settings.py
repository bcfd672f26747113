"""The networks of latents and noise: the `model` sections of the stages that train them. Imports no torch."""

from functools import partial
from typing import Annotated, ClassVar

from ..diffusion.names import ScheduleName
from ..settings.families import Families, FamilySection, preset_names
from ..settings.fields import OneOf, Section, option
from .families import FAMILIES
from .noisy_config import NoisyClassifierSize

NOISY = "noisy-classifier"  # output of `train-classifier --noisy`
DenoiserPreset = Annotated[str, OneOf(partial(preset_names, FAMILIES))]
_USUAL = next(iter(FAMILIES.values())).config


class DenoiserModel(FamilySection):
    """The denoiser's network: a preset, and what differs from it."""

    families: ClassVar[Families] = FAMILIES

    preset: DenoiserPreset = option(_USUAL.default_preset, f"Named network size: {_USUAL.sizes}.", "--preset")
    checkpointing: bool = option(False, "Recompute activations to save memory.", identity=False)


class NoisyProcess(Section):
    """The noise of the classifier of noisy latents, by default that of the run's denoiser."""

    schedule: ScheduleName | None = option(None, "Noise schedule.")
    num_steps: int | None = option(None, "Steps of the discrete process.", ge=2)
    zero_terminal_snr: bool | None = option(None, "Rescale the schedule to end in pure noise.")


class NoisyClassifierModel(NoisyClassifierSize, NoisyProcess):
    """The classifier of noisy latents: its noise, by default that of the run's denoiser, and its network."""
