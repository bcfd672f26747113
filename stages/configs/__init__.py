"""One frozen configuration per stage: defaults, help text, checks. Imports no torch."""

from ..settings import Stage
from .autoencoder import Encode, TrainVQVAE
from .classifier import NoisyClassifierModel, TrainClassifier
from .denoiser import BEST, Diffusion, Metrics, Preview, TrainDiT
from .evaluation import Eval
from .sampling import Sample

__all__ = [
    "BEST",
    "MADE_BY",
    "NOISY",
    "OUTPUTS",
    "STAGES",
    "Diffusion",
    "Encode",
    "Eval",
    "Metrics",
    "NoisyClassifierModel",
    "Preview",
    "Sample",
    "TrainClassifier",
    "TrainDiT",
    "TrainVQVAE",
]

STAGES: dict[str, type[Stage]] = {
    "train-vqvae": TrainVQVAE,
    "encode": Encode,
    "train-dit": TrainDiT,
    "train-classifier": TrainClassifier,
    "sample": Sample,
    "eval": Eval,
}
NOISY = "noisy-classifier"  # output of `train-classifier --noisy`
OUTPUTS = {
    "train-vqvae": "vqvae",
    "encode": "latents",
    "train-dit": "dit",
    "train-classifier": "classifier",
    "sample": "samples",
    "eval": "eval",
}
MADE_BY = {**{kind: command for command, kind in OUTPUTS.items()}, NOISY: "train-classifier"}
