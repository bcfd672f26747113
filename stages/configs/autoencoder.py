"""Settings of `ldm train-vqvae` and `ldm encode`."""

from typing import Annotated, Literal

from ...core.presets import AUTOENCODERS
from ..settings import Count, Data, Location, Machine, OneOf, Section, Stage, Train, option, section


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
    ema_decay: float | None = option(None, "Decay of the codebook's moving average.", ge=0, lt=1)


class VQVAELoss(Section):
    """What the reconstruction is judged by."""

    reconstruction: Literal["l1", "l2"] = option("l1", "Pixel loss.")
    lpips: Location | None = option(None, "Folder with LPIPS weights; none leaves the perceptual loss out.", "--lpips")
    lpips_weight: float = option(1.0, "Weight of the perceptual loss.", ge=0)
    adversarial_weight: float = option(0.0, "Weight of a PatchGAN discriminator; 0 leaves it out.", ge=0)
    adversarial_start: Count = option(200_000, "Images before the discriminator counts.")


class VQVAETrain(Train):
    images: Count = option(1_000_000, "Images to train on, counting repeats: 500k, 2M.", "--images")
    lr: float = option(4e-4, "Peak learning rate.", "--lr", gt=0)
    beta2: float = option(0.99, "AdamW's second moment.", ge=0, lt=1)
    ema: float = option(0.995, "Decay of the weights' moving average, per step; 0 switches it off.", ge=0, lt=1)


class TrainVQVAE(Stage):
    """Settings of `ldm train-vqvae`."""

    autoencoder: Location | None = option(
        None,
        "Take this diffusers autoencoder folder instead of training one; it is measured and stored.",
        "--autoencoder",
    )
    data: Data = section(Data)
    model: VQVAEModel = section(VQVAEModel)
    loss: VQVAELoss = section(VQVAELoss)
    train: VQVAETrain = section(VQVAETrain)
    machine: Machine = section(Machine)
    pictures: int = option(8, "Validation images shown beside their reconstruction.", identity=False, ge=1, le=64)


class Encode(Stage):
    """Settings of `ldm encode`. What `data` leaves unsaid is taken from the autoencoder's own training."""

    autoencoder: Location | None = option(None, "Autoencoder stage to use; by default the run's own.", "--autoencoder")
    data: Data = section(Data, inherited=True)
    batch_size: int = option(64, "Images encoded at once.", "--batch-size", ge=1)
    shard_size: int = option(4096, "Samples per shard.", "--shard-size", ge=1)
    machine: Machine = section(Machine)
