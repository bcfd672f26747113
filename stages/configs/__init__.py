"""One frozen configuration per stage: defaults, help text, checks. Imports no torch."""

from .autoencoder import Encode, TrainAutoencoder, TrainVQVAE
from .classifier import TrainClassifier
from .denoiser import TrainDenoiser, TrainDiT
from .distill import Distill
from .editing import Edit
from .evaluation import Eval
from .next_scale import TrainVAR
from .sampling import Sample

__all__ = [
    "Distill",
    "Edit",
    "Encode",
    "Eval",
    "Sample",
    "TrainAutoencoder",
    "TrainClassifier",
    "TrainDenoiser",
    "TrainDiT",
    "TrainVAR",
    "TrainVQVAE",
]
