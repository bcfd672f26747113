"""`ldm train-classifier`: a small classifier of images, or with `--noisy` one of noisy latents."""

from ...core.progress import Outcome, Progress
from ..configs import TrainClassifier
from . import images, noisy


def run(config: TrainClassifier, progress: Progress) -> Outcome:
    """Train a classifier on a run's images or others, or on its noisy latents. Returns its folder."""
    return noisy.run(config, progress) if config.noisy else images.run(config, progress)
