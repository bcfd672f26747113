"""Settings of `ldm train-dit`: the network, the forward process, the training."""

from typing import ClassVar

from ...core.training.tasks.settings import DenoiserTraining


class TrainDiT(DenoiserTraining):
    """Settings of `ldm train-dit`."""

    command: ClassVar[str] = "train-dit"
    kind: ClassVar[str] = "dit"
