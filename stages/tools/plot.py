"""`ldm plot`: pictures of the mathematics, and of a trained denoiser."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...core import seeds
from ...core.diffusion.conditions import Cond
from ...core.diffusion.denoisers import Denoiser
from ...core.diffusion.schedules import Schedule, schedule
from ...core.errors import ConfigError
from ...core.figures import draw
from ...core.images.decode import to_training
from ...core.images.order import spread
from ...core.images.sources import open_source
from ...core.pipeline.generation import Sampling, check
from ...core.pipeline.loading import diffusion_of, load_model, open_denoiser
from ...core.pipeline.model import Model, guided
from ...core.pipeline.training_data import training_data_of
from ...core.plots.convergence import sampler_panels
from ...core.plots.curves import schedule_panels, weight_panels
from ...core.plots.guiding import guidance_panels
from ...core.plots.noising import (
    denoised,
    denoising_picture,
    iterative_picture,
    noising_picture,
    strided,
    walked,
)
from ...core.plots.picture import claim_picture, write_picture
from ...core.progress import Outcome, Progress
from ...core.runs.outputs import machine_policy
from ...core.system.compile import maybe_compile
from ...core.system.precision import Policy
from ...core.system.transfer import to_device
from ..configs.plot import Plot

LARGEST_SIDE = 128


def run(config: Plot, progress: Progress) -> Outcome:
    """Draw one picture. Returns its path."""
    claim_picture(config.path)
    picture = PICTURES[config.what](config, progress)
    write_picture(config.path, picture)
    return Outcome(config.path.parent, pictures=[config.path])


def _noising(config: Plot, progress: Progress) -> np.ndarray:
    source = open_source(config.data)
    chosen = spread(len(source), config.count, config.seed)
    side = config.image_size or min(*source.picture(int(chosen[0])).size, LARGEST_SIDE)
    images = np.stack([to_training(source.picture(int(index)), side) for index in chosen])
    noise = seeds.normal(config.seed, "noise", chosen, (3, side, side))
    times_shown = torch.tensor(config.times_shown, dtype=torch.float64)
    return noising_picture(images, noise, _schedules(config), times_shown)


@dataclass(frozen=True)
class _HeldOut:
    """A trained model and held-out samples, as noise, latents (B, C, h, w) and their conditions."""

    model: Model
    policy: Policy
    denoise: Denoiser
    x0: Tensor
    eps: Tensor
    cond: Cond

    def decode(self, latents: Tensor) -> np.ndarray:
        return self.model.decode(latents, self.policy)


def _held_out(config: Plot, steps: int, progress: Progress) -> _HeldOut:
    """Open the run's denoiser and some of the images that it was not trained on."""
    source = open_denoiser(None, config)
    has_null, channels = source.metadata["label_dropout"] > 0, source.metadata["latent_shape"][0]
    sampling = Sampling(steps=steps, cfg=config.cfg)
    check(sampling, diffusion_of(source), has_null, channels)
    data = training_data_of(source, config)
    policy = machine_policy(config.machine)
    model = load_model(source, config, policy)
    held_out = data.read(policy, progress, "streamed").val
    maybe_compile(model.network, bool(config.machine.compile), policy.device)
    denoise = guided(model, sampling, policy).denoise

    chosen = spread(len(held_out), config.count, config.seed)
    x0 = held_out.batch(chosen, chosen, config.seed, flips=False).to(policy.device)
    eps = seeds.normal(config.seed, "noise", chosen, model.latent_shape).to(policy.device)
    cond = to_device(held_out.cond(chosen, chosen, config.seed), policy.device)
    return _HeldOut(model, policy, denoise, x0, eps, cond)


def _denoising(config: Plot, progress: Progress) -> np.ndarray:
    found, results = _held_out(config, config.steps, progress), []
    grid = found.model.grid(config.steps)
    progress.start("denoising", len(config.times_shown), "times")
    for t in config.times_shown:
        results.append(denoised(found.denoise, found.model.schedule, found.x0, found.eps, found.cond, t, grid))
        progress.update(len(results))
    progress.finish()
    return denoising_picture(results, found.x0, config.times_shown, config.steps, found.decode)


def _iterative(config: Plot, progress: Progress) -> np.ndarray:
    num_steps = diffusion_of(open_denoiser(None, config)).num_steps
    try:
        times = strided(num_steps, config.stride, config.start_index)
    except ValueError as error:
        raise ConfigError(f"`start_index={config.start_index}`: {error}", "give a smaller one") from None
    found = _held_out(config, len(times) - 1, progress)
    walk = walked(found.denoise, found.model.schedule, found.x0, found.eps, found.cond, times, config.every)
    return iterative_picture(*walk, found.x0, found.decode)


def _schedules(config: Plot) -> dict[str, Schedule]:
    return {name: schedule(kind, zero_terminal_snr=zero) for name, (kind, zero) in config.schedules.items()}


def _one_schedule(config: Plot) -> Schedule:
    (chosen,) = _schedules(config).values()
    return chosen


PICTURES: dict[str, Callable[[Plot, Progress], np.ndarray]] = {
    "schedule": lambda config, _: draw(schedule_panels(_schedules(config))),
    "weights": lambda config, _: draw(weight_panels(_one_schedule(config)), width=3.4),
    "noising": _noising,
    "denoising": _denoising,
    "iterative": _iterative,
    "samplers": lambda config, _: draw(sampler_panels(_schedules(config))),
    "guidance": lambda config, _: draw(guidance_panels(_one_schedule(config)), legend="inside", width=3.9),
}
