"""Settings of `ldm train-classifier`, of images and of noisy latents."""

from typing import ClassVar

from ...core.training.tasks.settings import ClassifierTraining


class TrainClassifier(ClassifierTraining):
    """Settings of `ldm train-classifier`. Missing settings of `data` are those of the run's autoencoder."""

    command: ClassVar[str] = "train-classifier"
    kind: ClassVar[str] = "classifier"
    examples = (
        "ldm train-classifier",
        "ldm train-classifier --data photos/ --images 200k",
        "ldm train-classifier --noisy",
    )
