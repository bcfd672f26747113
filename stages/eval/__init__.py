"""`ldm eval`: samples, reconstructions or a denoiser in, numbers with their conditions out."""

from ...core.progress import Outcome, Progress
from ..configs import Eval
from . import likelihood, reconstructions, samples


def run(config: Eval, progress: Progress) -> Outcome:
    """Measure a run's samples, its autoencoder's reconstructions or its denoiser. Returns the folder of the numbers."""
    if config.bits_per_dim:
        return likelihood.run(config, progress)
    return samples.run(config, progress) if config.of == "samples" else reconstructions.run(config, progress)
