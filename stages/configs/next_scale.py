"""Settings of `ldm train-var`: the transformer and its training."""

from typing import ClassVar

from ...core.training.tasks.settings import NextScaleTraining


class TrainVAR(NextScaleTraining):
    """Settings of `ldm train-var`."""

    command: ClassVar[str] = "train-var"
    kind: ClassVar[str] = "var"
