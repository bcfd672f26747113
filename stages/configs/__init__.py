"""One frozen configuration per stage: defaults, help text, checks. Imports no torch."""

from ...core.denoisers.settings import NOISY
from ...core.settings.fields import Stage
from .autoencoder import Encode, TrainVQVAE
from .classifier import TrainClassifier
from .denoiser import TrainDiT
from .evaluation import Eval
from .sampling import Sample

__all__ = ["MADE_BY", "OUTPUTS", "STAGES", "Encode", "Eval", "Sample", "TrainClassifier", "TrainDiT", "TrainVQVAE"]

STAGES: dict[str, type[Stage]] = {
    stage.command: stage for stage in (TrainVQVAE, Encode, TrainDiT, TrainClassifier, Sample, Eval)
}
OUTPUTS = {command: stage.kind for command, stage in STAGES.items()}
MADE_BY = {**{kind: command for command, kind in OUTPUTS.items()}, NOISY: "train-classifier"}
