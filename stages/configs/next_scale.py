"""Settings of `ldm train-var`: the transformer and its training."""

from typing import ClassVar

from ...core.training.tasks.settings import NextScaleTraining


class TrainVAR(NextScaleTraining):
    """Settings of `ldm train-var`."""

    command: ClassVar[str] = "train-var"
    kind: ClassVar[str] = "var"
    examples = (
        "ldm train-autoencoder --preset msvq-s --data photos/ --name mine",
        "ldm encode --name mine",
        "ldm train-var --preset var-d6 --name mine",
        "ldm sample --class 3 --cfg 2.5 --name mine",
    )
