"""The autoencoder's network and loss: sections of `ldm train-vqvae`. Imports no torch."""

from functools import partial
from typing import Annotated, ClassVar, Literal

from ..settings.families import Families, FamilySection, preset_names
from ..settings.fields import Count, Location, OneOf, Section, option
from .families import FAMILIES

SMALLEST_FOR_LPIPS = 17  # pixels: of shorter sides its network leaves nothing
_CONFIGS = [family.config for family in FAMILIES.values() if family.config.presets]


class AutoencoderModel(FamilySection):
    """The autoencoder's network: a preset, and what differs from it."""

    families: ClassVar[Families] = FAMILIES

    preset: Annotated[str, OneOf(partial(preset_names, FAMILIES))] = option(
        _CONFIGS[0].default_preset, f"Named network: {'; '.join(each.sizes for each in _CONFIGS)}.", "--preset"
    )


class VQVAELoss(Section):
    """The losses of the reconstruction."""

    reconstruction: Literal["l1", "l2"] = option("l1", "Pixel loss.")
    lpips: Location | None = option(None, "Folder with LPIPS weights; none leaves the perceptual loss out.", "--lpips")
    lpips_weight: float = option(1.0, "Weight of the perceptual loss.", ge=0)
    lpips_size: int | None = option(
        None,
        "Side in pixels to which the perceptual loss resizes images: twice that of small ones shows it more of their"
        " texture; by default it takes them as they are.",
        ge=SMALLEST_FOR_LPIPS,
        le=4096,
    )
    equivariance: float = option(
        0.0,
        "Share of training steps in which latents are turned, or halved in size, before they are decoded, and compared"
        " with images treated alike (EQ-VAE); 0.5 in its paper.",
        ge=0,
        le=1,
    )
    adversarial_weight: float = option(0.0, "Weight of a PatchGAN discriminator; 0 leaves it out.", ge=0)
    adversarial_start: Count = option(200_000, "Images before the discriminator counts.")
