"""Settings of `ldm train-denoiser` and `ldm train-dit`: the network, the forward process, the training."""

from typing import ClassVar

from ...core.training.tasks.settings import DenoiserTraining


class TrainDenoiser(DenoiserTraining):
    """Settings of `ldm train-denoiser`."""

    command: ClassVar[str] = "train-denoiser"
    kind: ClassVar[str] = "denoiser"
    examples: ClassVar[tuple[str, ...]] = (
        "ldm train-denoiser --name mine",
        "ldm train-denoiser --preset DiT-S/2 --images 5M",
    )


class TrainDiT(TrainDenoiser):
    """Settings of `ldm train-dit`: the same work with a DiT as default, in its own folder."""

    command: ClassVar[str] = "train-dit"
    kind: ClassVar[str] = "dit"
    examples = (
        "ldm train-dit",
        "ldm train-dit --preset DiT-S/2 --images 5M --name mine",
        "ldm train-dit --prediction eps --weighting snr --schedule linear",
        "ldm train-dit --schedule rectified-flow --times logit-normal",
        "ldm train-dit --metrics-every 100k metrics.num=1000",
        "torchrun --nproc-per-node 4 -m ldm train-dit --name mine",
    )
