"""Settings of `ldm train-autoencoder`, `ldm train-vqvae` and `ldm encode`."""

from typing import ClassVar, Literal

from ...core.conditioning.names import DataKind
from ...core.images.settings import Data
from ...core.latents.settings import TextSettings
from ...core.settings.fields import Location, Stage, option, section
from ...core.system.settings import Machine
from ...core.training.tasks.settings import AutoencoderTraining


class TrainAutoencoder(AutoencoderTraining):
    """Settings of `ldm train-autoencoder`."""

    command: ClassVar[str] = "train-autoencoder"
    kind: ClassVar[str] = "autoencoder"
    examples: ClassVar[tuple[str, ...]] = (
        "ldm train-autoencoder --data photos/ --preset vqvae-m --image-size 128",
        "ldm train-autoencoder -c imagenette-64 --images 200k",
        "ldm train-autoencoder --data photos/ --preset kl-f8-s --latent-channels 8 --lpips weights/lpips-squeeze",
        "ldm train-autoencoder --data photos/ --preset kl-f16-s --kl-weight 1 loss.reconstruction=l2",
        "ldm train-autoencoder --data photos/ --preset dc-f16-s --start-from runs/mine --part middle --name high",
        "ldm train-autoencoder --data photos/ --autoencoder models/sd-vae",
    )


class TrainVQVAE(TrainAutoencoder):
    """Settings of `ldm train-vqvae`: the same work with a VQ-VAE as default, in its own folder."""

    command: ClassVar[str] = "train-vqvae"
    kind: ClassVar[str] = "vqvae"
    examples = (
        "ldm train-vqvae --data mnist --no-flip --image-size 32",
        "ldm train-vqvae -c mnist --images 500k --lr 1e-3",
        "ldm train-vqvae --data photos/ --autoencoder models/sd-vae",
        "ldm train-vqvae --data photos/ loss.adversarial_weight=0.1",
    )


class Encode(Stage):
    """Settings of `ldm encode`. Missing settings of `data` are those of the autoencoder's training."""

    command: ClassVar[str] = "encode"
    kind: ClassVar[str] = "latents"
    examples = (
        "ldm encode",
        "ldm encode --name mine --batch-size 256",
    )

    autoencoder: Location | None = option(
        None, "Autoencoder stage to use; by default the run's own.", "--autoencoder", identity="contents"
    )
    data: Data = section(Data, inherited=True)
    conditioning: Literal["auto", DataKind] = option(
        "auto",
        "What denoisers of the latents are conditioned on; auto is text where images have captions and no class"
        " folders, attributes is labels.csv.",
        "--conditioning",
    )
    text: TextSettings = section(TextSettings)
    crops: int = option(
        0,
        "Random crops encoded of each training image beside it, for small sets: denoisers are conditioned on which part"
        " they see, and draw whole images.",
        "--crops",
        ge=0,
        le=1000,
    )
    # Images are enlarged as a whole before crops are cut out, and take memory for it.
    least_crop: float = option(0.7, "Share of an image's sides that a crop shows at least.", ge=0.3, lt=1)
    batch_size: int = option(64, "Images encoded at once.", "--batch-size", ge=1)
    shard_size: int = option(4096, "Samples per shard.", "--shard-size", ge=1)
    machine: Machine = section(Machine)
