"""`ldm plot`: pictures of the mathematics, and of a trained denoiser."""

from collections.abc import Callable

import numpy as np
import torch

from ...core import seeds
from ...core.diffusion.schedules import Schedule, schedule
from ...core.figures import draw
from ...core.images.decode import to_training
from ...core.images.order import spread
from ...core.images.sources import open_source
from ...core.pipeline.generation import Sampling, check
from ...core.pipeline.loading import diffusion_of, load_model, open_denoiser
from ...core.pipeline.model import guided
from ...core.pipeline.training_data import training_data_of
from ...core.plots.convergence import sampler_panels
from ...core.plots.curves import schedule_panels, weight_panels
from ...core.plots.guiding import guidance_panels
from ...core.plots.noising import denoised, denoising_picture, noising_picture
from ...core.plots.picture import claim_picture, write_picture
from ...core.progress import Outcome, Progress
from ...core.runs.outputs import machine_policy
from ...core.system.compile import maybe_compile
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


def _denoising(config: Plot, progress: Progress) -> np.ndarray:
    source = open_denoiser(None, config)
    diffusion = diffusion_of(source)
    has_null, channels = source.metadata["label_dropout"] > 0, source.metadata["latent_shape"][0]
    sampling = Sampling(steps=config.steps, cfg=config.cfg)
    check(sampling, diffusion, has_null, channels)
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
    grid = model.grid(config.steps)
    results = []
    progress.start("denoising", len(config.times_shown), "times")
    for t in config.times_shown:
        results.append(denoised(denoise, model.schedule, x0, eps, cond, t, grid))
        progress.update(len(results))
    progress.finish()
    return denoising_picture(results, x0, config.times_shown, config.steps, lambda z: model.decode(z, policy))


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
    "samplers": lambda config, _: draw(sampler_panels(_schedules(config))),
    "guidance": lambda config, _: draw(guidance_panels(_one_schedule(config)), legend="inside", width=3.9),
}
