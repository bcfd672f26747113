"""A loaded model as diffusers' own objects, how far these are from it, and where they draw otherwise."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..autoencoders.codec import Autoencoder
from ..conditioning.text import TextConditioning
from ..diffusion import conditions
from ..diffusion.predictions import MOST_NOISE, latest_time
from ..errors import ConfigError
from ..pipeline.model import Model
from . import scheduler
from .exporters import autoencoder_exporter, denoiser_exporter
from .pipeline import Parts
from .prompts import embedded


@dataclass(frozen=True)
class Agreement:
    """By how much, at most, the export was seen to differ: the network's output, and images in [0, 1]."""

    network: float
    image: float

    @property
    def holds(self) -> bool:
        """Whether both are rounding."""
        return self.network < 1e-3 and self.image < 1 / 255

    def __str__(self) -> str:
        return f"network within {self.network:.1e}, images within {self.image * 255:.2g}/255"


def convert(model: Model, image_size: int, text_encoders: tuple[str, ...]) -> Parts:
    """Return the model as diffusers' parts. Raises ConfigError naming what cannot be expressed there."""
    exporter = denoiser_exporter(model.network)
    stock = exporter.pipeline(model.network.config)
    network = exporter.to_diffusers(model.network, scheduler.ahead_of(model.schedule))
    autoencoder, statistics = _convert_autoencoder(model, apart=bool(stock.slots))
    stepper = scheduler.to_diffusers(
        model.schedule,
        model.diffusion.prediction,
        model.network.config.time_scale,
        model.diffusion.shift if scheduler.shifts(model.schedule) else 1.0,
        stock.flow or scheduler.FLOW_MATCH,
    )
    encoders: dict[str, Any] = {}
    why_not: str | None = None
    if statistics is not None:
        why_not = f"{stock.name} cannot normalise latents by channel, as this run does"
    elif stock.slots:
        is_flow = scheduler.shifts(model.schedule)
        why_not = stock.why_not(model.conditioning, type(autoencoder).__name__, is_flow, image_size)
        if why_not is None:
            assert isinstance(model.conditioning, TextConditioning)
            found = stock.encoders(model.conditioning, text_encoders)
            why_not = found if isinstance(found, str) else None
            encoders = {} if isinstance(found, str) else stock.filled(found)
    return Parts(stock, network, autoencoder, stepper, encoders, why_not, statistics)


def _convert_autoencoder(model: Model, apart: bool) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor] | None]:
    """Return the autoencoder in a class of diffusers, and the statistics of latents that no layer of it takes in.

    apart: whether there may be such; they are refused otherwise, by a ConfigError.
    """
    own = model.autoencoder
    exporter, side = autoencoder_exporter(own), model.latent_shape[1]
    try:
        return exporter.to_diffusers(own, side), None
    except ConfigError:
        if not apart:
            raise
    bare = Autoencoder(own.codec).eval()  # whose latents are the codec's own
    return exporter.to_diffusers(bare, side), (own.latent_mean, own.latent_std)


@torch.no_grad()
def compare(model: Model, parts: Parts) -> Agreement:
    """Return how far the exported network and autoencoder are from ours, at most, on random latents.

    Differences of images are in [0, 1], before rounding.
    """
    network, ahead = model.network, scheduler.ahead_of(model.schedule)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, *model.latent_shape, generator=generator)
    num = network.config.num_classes
    cond = {"labels": torch.randint(num, (len(x),), generator=generator)} if num else {}
    if parts.stock.slots:  # One and the same text, as texts of other lengths do not go together there.
        cond = conditions.index(model.conditioning.groups().cond, [0] * len(x))
    t = torch.tensor([0.001, 0.25, 0.75, 1.0])
    given = embedded(network, cond)
    theirs = denoiser_exporter(network).outputs(parts.network, network.config, x, t, given, ahead)
    image = difference_of_images(model.autoencoder, parts.autoencoder, x[:2], parts.statistics)
    return Agreement(float((network(x, t, cond) - theirs).abs().max()), image)


@torch.no_grad()
def difference_of_images(
    autoencoder: Autoencoder,
    network: Any,
    latents: torch.Tensor,
    statistics: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> float:
    """Return by how much, at most, images in [0, 1] of an exported network differ."""
    mean, std = (torch.zeros(1), torch.ones(1)) if statistics is None else statistics
    given = latents * std[:, None, None] + mean[:, None, None]
    decoded = network.decode(given / network.config.scaling_factor).sample.clamp(-1, 1)
    return float((decoded - autoencoder.decode(latents)).abs().max() / 2)


def other_times(model: Model) -> Iterator[str]:
    """Say where the pipeline's sampler visits other times than `ldm sample`, a sentence each."""
    if model.diffusion.shift != 1 and not scheduler.shifts(model.schedule):
        yield f"Times are not shifted by {model.diffusion.shift:g}: the images are those of `ldm sample shift=1`."
    start = latest_time(model.diffusion.prediction, model.schedule)
    if start < 1:
        alpha, sigma = model.schedule.alpha_sigma(torch.ones((), dtype=torch.float64))
        yield (
            f"It starts at t = 1, where an error of the predicted noise is multiplied by {sigma / alpha:,.0f}, and"
            f" `ldm sample` at {start:.3f}, where that is {MOST_NOISE:g}: the images differ."
        )
