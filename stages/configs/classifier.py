"""Settings of `ldm train-classifier`, of images and of noisy latents."""

from typing import Literal

from ..settings import Count, Data, Location, Machine, Section, Stage, Train, option, section
from .denoiser import ScheduleName


class ClassifierTrain(Train):
    images: Count = option(100_000, "Images to train on, counting repeats: 500k, 2M.", "--images")
    lr: float = option(2e-3, "Peak learning rate.", "--lr", gt=0)
    decay: Literal["constant", "cosine", "linear"] = option("cosine", "Learning rate after warm-up.")
    weight_decay: float = option(0.01, "AdamW's weight decay.", ge=0)
    ema: float = option(0.0, "Decay of the weights' moving average, per step; 0 switches it off.", ge=0, lt=1)


class NoisyClassifierModel(Section):
    """The classifier of noisy latents: its noise, by default that of the run's denoiser, and its network."""

    schedule: ScheduleName | None = option(None, "Noise schedule.")
    num_steps: int | None = option(None, "Steps of the discrete process.", ge=2)
    zero_terminal_snr: bool | None = option(None, "Rescale the schedule to end in pure noise.")
    width: int = option(128, "Width of the tokens.", ge=8)
    depth: int = option(4, "Blocks.", ge=1)
    heads: int = option(4, "Attention heads.", ge=1)
    patch_size: int = option(2, "Latent pixels per token side.", ge=1)


class TrainClassifier(Stage):
    """Settings of `ldm train-classifier`. What `data` leaves unsaid is taken from the run's autoencoder."""

    noisy: bool = option(False, "Classify noisy latents, for classifier guidance, instead of images.", "--noisy")
    latents: Location | None = option(None, "With --noisy: latents to train on; by default the run's own.", "--latents")
    data: Data = section(Data, inherited=True)
    noisy_model: NoisyClassifierModel = section(NoisyClassifierModel)
    max_shift: int = option(2, "Random shift of training images, pixels.", ge=0)
    train: ClassifierTrain = section(ClassifierTrain)
    machine: Machine = section(Machine)
