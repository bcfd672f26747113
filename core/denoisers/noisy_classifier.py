"""A classifier of noisy latents at any time, for classifier guidance (Dhariwal & Nichol 2021, section 4).

The blocks are those of the denoising transformer, modulated by the time alone; the head reads the tokens' mean.
"""

from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diffusion.conditions import Cond
from ..diffusion.schedules import Schedule
from ..errors import ConfigError, DataError
from ..runs.weights import CONFIG, WEIGHTS, load_into, read_description, read_weights, save_network
from .dit import Block
from .layers import TimestepEmbedding, modulate, normalise, sincos_positions
from .network import check_latents
from .noisy_config import NoisyClassifierConfig

KIND = "noisy-classifier"
NETWORKS = (KIND,)  # the kinds that `load` reads
REMEDY = "give the folder of a whole classifier of noisy latents"


class NoisyClassifier(nn.Module):
    """Network of (x_t, t) → logits."""

    class_axes: ClassVar[dict[str, int]] = {"out.weight": 0, "out.bias": 0}

    def __init__(self, config: NoisyClassifierConfig) -> None:
        super().__init__()
        self.config, body = config, config.body
        width = config.width
        self.patch = nn.Conv2d(config.latent_channels, width, config.patch_size, config.patch_size)
        self.time = TimestepEmbedding(width, body.frequencies, body.time_scale, body.frequency_shift)
        self.blocks = nn.ModuleList(Block(body) for _ in range(config.depth))
        self.modulation = nn.ModuleList(nn.Linear(width, 6 * width) for _ in range(config.depth))
        self.final_modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, config.num_classes)
        self.positions: Tensor
        self.register_buffer("positions", sincos_positions(width, body.grid), persistent=False)
        self._initialise()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return logits (B, K) of noisy latents x (B, C, h, w) at times t (B,) in [0, 1]."""
        condition = F.silu(self.time(t))
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.positions
        for block, linear in zip(self.blocks, self.modulation, strict=True):
            tokens = block(tokens, linear(condition), None)
        shift, scale = self.final_modulation(condition)[:, None].chunk(2, dim=-1)
        return self.out(modulate(normalise(tokens, rms=False), shift, scale).mean(dim=1))

    def _initialise(self) -> None:
        """As the denoiser: blocks start as the identity; and all classes start alike."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for linear in (*self.modulation, self.final_modulation, self.out):
            nn.init.zeros_(linear.weight)


def logits(network: nn.Module, schedule: Schedule, x_t: Tensor, t: Tensor) -> Tensor:
    """Return logits, float32 (B, K), of x_t (B, C, h, w) at t (B,): the network's output times alpha(t).

    The information on the class fades with the signal: log p(y | x_t) grows from log p(y) in proportion to alpha. A
    network's own gradient does not fade, and guidance, which moves x0 by sigma² / alpha times the gradient, would start
    with a leap as large as 1 / alpha (20,000 on the cosine schedule).
    """
    alpha, _ = schedule.alpha_sigma(t)
    output: Tensor = network(x_t, t)
    return alpha.view(-1, 1) * output.float()


def log_prob(network: nn.Module, schedule: Schedule, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """Return log p(label | x_t), float32 (B,), of a condition with labels."""
    return logits(network, schedule, x_t, t).log_softmax(1).gather(1, cond["labels"][:, None]).squeeze(1)


def save(network: NoisyClassifier, folder: Path) -> list[str]:
    """Write the network's folder, in the layout of `core.runs.weights`. Returns the names of its files."""
    return save_network(network, folder, KIND, network.config.model_dump(mode="json"))


def load(folder: Path, latent_shape: tuple[int, ...] | None = None) -> NoisyClassifier:
    """Read what `save` wrote, on the CPU. latent_shape: (C, H, W), where it is known from elsewhere.

    Raises DataError naming the file that is missing, damaged, of another kind, or of other latents.
    """
    described = read_description(folder, (KIND,), REMEDY)
    try:
        config = NoisyClassifierConfig.from_json(described["config"])
    except ConfigError as error:
        raise DataError(f"{folder / CONFIG} is damaged: {error}", REMEDY) from None
    check_latents(config.body, latent_shape, folder / CONFIG, REMEDY)
    with torch.device("meta"):  # where a damaged size allocates no memory
        network = NoisyClassifier(config)
    load_into(network, read_weights(folder, described, REMEDY), folder / WEIGHTS, REMEDY, assign=True)
    return network
