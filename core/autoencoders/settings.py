"""The autoencoder's network and loss: sections of `ldm train-vqvae`. Imports no torch."""

from typing import Annotated, Literal

from ..settings.fields import Count, Location, OneOf, Section, option
from ..settings.presets import AUTOENCODERS


class VQVAEModel(Section):
    """The autoencoder's network: a preset, and what differs from it."""

    preset: Annotated[str, OneOf((*AUTOENCODERS,))] = option(
        "vqvae-s", "Named network size: vqvae-xs, vqvae-s or vqvae-m (4x smaller), vqvae-f8, vqvae-f16.", "--preset"
    )
    channels: int | None = option(None, "Width of the finest level.", ge=1)
    channel_multipliers: tuple[int, ...] | None = option(
        None, "Width of each of n levels; they shrink images patch x 2^(n-1) times."
    )
    patch: int | None = option(None, "Pixels per side that the first layer folds into channels.", ge=1)
    num_res_blocks: int | None = option(None, "Residual blocks per level.", ge=1)
    num_decoder_blocks: int | None = option(None, "Residual blocks per level of the decoder.", ge=1)
    middle_blocks: bool | None = option(None, "Residual blocks at the lowest resolution.")
    latent_channels: int | None = option(None, "Channels of the latent.", "--latent-channels", ge=1)
    codebook_size: int | None = option(None, "Codes that a latent pixel can be.", "--codebook-size", ge=2)
    cosine: bool | None = option(None, "Choose codes by cosine similarity.")
    attention: bool | None = option(None, "Self-attention at the lowest resolution.")
    commitment: float | None = option(None, "Weight of the commitment term, on the encoder.", ge=0)
    ema_decay: float | None = option(None, "Decay of the codebook's EMA.", ge=0, lt=1)


class VQVAELoss(Section):
    """What the reconstruction is judged by."""

    reconstruction: Literal["l1", "l2"] = option("l1", "Pixel loss.")
    lpips: Location | None = option(None, "Folder with LPIPS weights; none leaves the perceptual loss out.", "--lpips")
    lpips_weight: float = option(1.0, "Weight of the perceptual loss.", ge=0)
    adversarial_weight: float = option(0.0, "Weight of a PatchGAN discriminator; 0 leaves it out.", ge=0)
    adversarial_start: Count = option(200_000, "Images before the discriminator counts.")
