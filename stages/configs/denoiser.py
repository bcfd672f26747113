"""Settings of `ldm train-denoiser` and `ldm train-dit`: the network, the forward process, the training."""

from typing import ClassVar

from ...core.training.tasks.settings import DenoiserTraining


class TrainDenoiser(DenoiserTraining):
    """Settings of `ldm train-denoiser`."""

    command: ClassVar[str] = "train-denoiser"
    kind: ClassVar[str] = "denoiser"


class TrainDiT(TrainDenoiser):
    """Settings of `ldm train-dit`: the same work with a DiT as default, in its own folder."""

    command: ClassVar[str] = "train-dit"
    kind: ClassVar[str] = "dit"
