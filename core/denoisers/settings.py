"""The networks of latents and noise: the `model` sections of the stages that train them. Imports no torch."""

from typing import Annotated

from ..pipeline.settings import ScheduleName
from ..settings.fields import OneOf, Section, option
from ..settings.presets import DENOISERS

NOISY = "noisy-classifier"  # output of `train-classifier --noisy`
DenoiserPreset = Annotated[str, OneOf((*DENOISERS,))]


class DiTModel(Section):
    """The denoiser's network: a preset, and what differs from it."""

    preset: DenoiserPreset = option("dit-s/2", "Named network size: dit-xs, DiT-S/2 … DiT-XL/2.", "--preset")
    patch_size: int | None = option(None, "Latent pixels per token side.", ge=1)
    width: int | None = option(None, "Width of the tokens.", ge=8)
    depth: int | None = option(None, "Blocks.", ge=1)
    heads: int | None = option(None, "Attention heads.", ge=1)
    mlp_ratio: float | None = option(None, "Width of the MLP over the width of the tokens.", gt=0)
    qk_norm: bool | None = option(None, "Normalise queries and keys.")
    rope: bool | None = option(None, "Rotary instead of added positions.")
    swiglu: bool | None = option(None, "SwiGLU instead of GELU.")
    rmsnorm: bool | None = option(None, "RMSNorm instead of LayerNorm.")
    checkpointing: bool = option(False, "Recompute activations to save memory.", identity=False)


class NoisyClassifierModel(Section):
    """The classifier of noisy latents: its noise, by default that of the run's denoiser, and its network."""

    schedule: ScheduleName | None = option(None, "Noise schedule.")
    num_steps: int | None = option(None, "Steps of the discrete process.", ge=2)
    zero_terminal_snr: bool | None = option(None, "Rescale the schedule to end in pure noise.")
    width: int = option(128, "Width of the tokens.", ge=8)
    depth: int = option(4, "Blocks.", ge=1)
    heads: int = option(4, "Attention heads.", ge=1)
    patch_size: int = option(2, "Latent pixels per token side.", ge=1)
