"""From conditions and seeds to images: the one place that joins network, schedule, guidance, sampler and decoder."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from .. import seeds
from ..diffusion import conditions, consistency, samplers
from ..diffusion.conditions import Cond
from ..diffusion.denoisers import Denoiser, clipped
from ..diffusion.guidance import autoguidance, classifier_free
from ..diffusion.names import CONSISTENCY
from ..diffusion.schedules import Schedule
from ..errors import ConfigError
from ..settings.fields import shared_fields
from ..system.memory import filled_chunks
from ..system.precision import Policy
from ..system.transfer import to_device
from .model import Guidance, Model, forward_process, guided, sampling_times
from .settings import Diffusion, Drawing


@dataclass(frozen=True)
class Sampling(Guidance):
    """How images are drawn; the fields are the options of `ldm sample`."""

    sampler: str = "ddim"
    steps: int | None = None
    eta: float = 0.0
    spacing: str = "trailing"
    shift: float | None = None
    variance: str = "auto"
    clip: str = "none"
    image_size: int | None = None
    cache: int = 1

    @property
    def recorded(self) -> dict[str, Any]:
        """What manifests record of it; nothing of choices that came later, where they are as by default."""
        later = {"away_from": None, "image_size": None, "cache": 1}
        return {name: value for name, value in vars(self).items() if name not in later or value != later[name]}

    @property
    def num_steps(self) -> int:
        """The steps asked for, or the sampler's default."""
        return self.steps if self.steps is not None else samplers.DEFAULT_STEPS[self.sampler]

    def on(self, num_steps: int) -> "Sampling":
        """Return these settings for a schedule of so many steps, of which the sampler's default may be more."""
        return self if self.steps is not None else replace(self, steps=min(self.num_steps, num_steps))


@dataclass(frozen=True)
class Start:
    """The start of sampling for some images of a request, which an edit may change.

    rows: of the images, int64 (B,). denoise: guided. plain: the same without guidance. x, times: the state that it
    starts from, and the times that it visits. noise: purpose and step → standard normal draws as x, by each image's own
    seed.
    """

    rows: np.ndarray
    denoise: Denoiser
    plain: Denoiser
    x: torch.Tensor
    times: torch.Tensor
    schedule: Schedule
    noise: Callable[[str, int], torch.Tensor]


Edit = Callable[[Start], Start]
DEFAULT_CFG = 3.0  # default guidance of a model with a null class
_SAMPLERS = {**samplers.SAMPLERS, CONSISTENCY: consistency.restarts}
_RESTARTS = 2  # default steps of consistency models, of which more gain little
_PIXELS_AT_ONCE = 4096  # latent pixels per pass that keep a CPU's matrix units busy
_LARGEST_CHUNK = 64


def sampling_of(drawing: Drawing, has_null: bool) -> Sampling:
    """Return the settings that say how images are drawn. has_null: whether there is a null class to guide from."""
    scale = drawing.cfg if drawing.cfg_paper is None else 1 + drawing.cfg_paper
    resolved = {
        "cfg": (DEFAULT_CFG if has_null else 1.0) if scale is None else scale,
        "autoguide_scale": drawing.autoguide_scale if drawing.autoguide is not None else 1.0,
    }
    sampling: Sampling = shared_fields(Sampling, {**dict(drawing), **resolved})
    return sampling


def as_trained(sampling: Sampling, diffusion: Diffusion) -> Sampling:
    """Return how a network of these settings draws: a consistency model in steps of its own, others as asked for."""
    if diffusion.objective != CONSISTENCY:
        return sampling
    return replace(sampling, sampler=CONSISTENCY, spacing="uniform", steps=sampling.steps or _RESTARTS)


def check(sampling: Sampling, diffusion: Diffusion, has_null: bool, channels: int) -> None:
    """Refuse settings that a model cannot follow. Raises ConfigError naming the setting.

    diffusion: what it was trained to do. has_null: whether there is something to guide away from: a null class that
    was trained, or `away_from`. channels: of its latents.
    """
    if not diffusion.draws:
        raise ConfigError(
            f"this denoiser was trained at the one noise level sigma {diffusion.sigma:g}: from that it denoises in one"
            " step, and draws no images from noise",
            "look at the denoised images that its training draws, or train with `diffusion.objective=denoising`",
        )
    if sampling.cfg != 1.0 and not has_null:
        raise ConfigError(
            f"`cfg={sampling.cfg:g}` needs a null class, but this denoiser was trained with label dropout 0",
            "use `cfg=1`, or train with `label_dropout=0.1`",
        )
    if sampling.cfg == 1.0 and sampling.away_from is not None:
        raise ConfigError(f"`away_from={sampling.away_from}` has no effect at `cfg=1`", "give another `cfg`")
    if not 1 <= sampling.num_steps <= diffusion.most_steps:
        of = "the schedule's number of steps" if diffusion.most_steps > 1 else "as this denoiser does all in one step"
        raise ConfigError(
            f"`steps={sampling.num_steps}` is outside 1 … {diffusion.most_steps}, {of}", "give fewer steps"
        )
    if sampling.cfg_channels is not None and sampling.cfg_channels > channels:
        raise ConfigError(
            f"`cfg_channels={sampling.cfg_channels}`: the latents have {channels} channels", f"give 1 to {channels}"
        )
    if sampling.eta and sampling.sampler != "ddim":
        raise ConfigError(
            f"`eta={sampling.eta:g}` belongs to the DDIM sampler, not {sampling.sampler}", "use `sampler=ddim`"
        )
    if sampling.variance != Sampling.variance and sampling.sampler != "ddpm":
        raise ConfigError(
            f"`variance={sampling.variance}` belongs to the DDPM sampler, not {sampling.sampler}", "use `sampler=ddpm`"
        )
    if sampling.variance == "learned" and not diffusion.learn_variance:
        raise ConfigError(
            "`variance=learned`: this denoiser did not learn one",
            "leave it out, or train with `diffusion.learn_variance=yes`",
        )


def check_clip(sampling: Sampling, of_pixels: bool) -> None:
    """Refuse to clip latents, which have no bounds: their samples would shrink. Raises ConfigError."""
    if sampling.clip != "none" and not of_pixels:
        raise ConfigError(
            f"`clip={sampling.clip}` is for models of pixels: latents have no bounds to clip at", "leave it out"
        )


def evaluations(sampling: Sampling, diffusion: Diffusion) -> tuple[int, int]:
    """Count, by sampling with a network that only counts, how often it sees an image, and in how many passes.

    A weaker network, of autoguidance, counts as the network itself.
    """
    seen: list[int] = []

    def count(x_t: torch.Tensor, t: torch.Tensor, cond: Cond) -> torch.Tensor:
        seen.append(len(x_t))
        return x_t

    denoise: Denoiser = autoguidance(count, count, sampling.autoguide_scale, sampling.cfg_interval)
    if sampling.cfg != 1.0:
        denoise = classifier_free(denoise, sampling.cfg, lambda cond: cond, sampling.cfg_interval)
    x, sampling = torch.zeros(1, 1, 1, 1), as_trained(sampling, diffusion).on(diffusion.most_steps)
    grid = sampling_times(diffusion, sampling.num_steps, sampling.spacing, sampling.shift)
    _SAMPLERS[sampling.sampler](denoise, x, forward_process(diffusion), grid, {}, noise=lambda step: x)
    return sum(seen), len(seen)


def generate(
    model: Model,
    cond: Cond,
    seed_indices: np.ndarray,
    sampling: Sampling,
    policy: Policy,
    on_step: samplers.OnStep | None = None,
    edit: Edit | None = None,
    on_latents: Callable[[torch.Tensor], None] | None = None,
) -> np.ndarray:
    """Draw one image per seed, uint8 (B, H, W, C).

    cond: a row per image, on the CPU. seed_indices: int64 (B,), each the seed of all of its image's draws. on_step:
    called after each step, as by the samplers, with latents; for more images than `chunk_size`, once per chunk. edit:
    changes where sampling starts, which times it visits, or the denoiser; see `core.diffusion.editing`. on_latents:
    given the latents of the images in their order, some at a time, before they are decoded.

    Matrix products of different heights round differently, so the network always sees chunks of one size, the last
    one filled up: an image is the same to the bit alone, in a batch of 64, or in a run that was interrupted.
    """
    # Refuse before the first pass what the model cannot do.
    has_negative = model.conditioning.has_null or sampling.away_from is not None
    check(sampling, model.diffusion, has_negative, model.latent_shape[0])
    check_clip(sampling, model.autoencoder.keeps_pixels)
    size = chunk_size(model.shape_at(sampling.image_size), policy)
    pieces = []
    for filled, count in filled_chunks(len(seed_indices), size):
        some = conditions.index(cond, filled), seed_indices[filled], filled
        latents = _chunk(model, *some, count, sampling, policy, on_step, edit)
        if on_latents is not None:
            on_latents(latents[:count])
        pieces.append(model.decode(latents, policy)[:count])
    return np.concatenate(pieces)


def chunk_size(latent_shape: tuple[int, int, int], policy: Policy) -> int:
    """Return how many images the network sees at once: a function of latent size and kind of device only."""
    # Nothing else may enter: another size would round images differently.
    pixels = latent_shape[1] * latent_shape[2]
    at_once = _PIXELS_AT_ONCE if policy.device.type == "cpu" else 16 * _PIXELS_AT_ONCE
    return min(max(at_once // pixels, 1), _LARGEST_CHUNK)


@torch.no_grad()
def _chunk(
    model: Model,
    cond: Cond,
    seed_indices: np.ndarray,
    rows: np.ndarray,
    count: int,
    sampling: Sampling,
    policy: Policy,
    on_step: samplers.OnStep | None,
    edit: Edit | None,
) -> torch.Tensor:
    """Sample the latents of one chunk, of which the first `count` are wanted."""
    shape = model.shape_at(sampling.image_size)

    def noise(purpose: str, step: int) -> torch.Tensor:
        # By each image's own seed and the step: an image does not depend on the others in its chunk.
        draws = [seeds.normal(int(seed), purpose, [step], shape) for seed in seed_indices]
        return to_device(torch.cat(draws), policy.device)

    def wanted(step: int, time: float, x: torch.Tensor, x0: torch.Tensor) -> None:
        assert on_step is not None, "called only with on_step"
        on_step(step, time, x[:count], x0[:count])

    # Guide the denoiser. DDPM takes a learned variance, and a classifier's gradient, in its steps instead.
    is_ddpm = sampling.sampler == "ddpm"
    learned = is_ddpm and model.diffusion.learn_variance and sampling.variance in ("auto", "learned")
    steered = guided(model, sampling, policy, is_ddpm, learned, sampling.cache)
    denoise = steered.denoise
    if sampling.clip != "none":
        mean, std = (values[:, None, None] for values in (model.autoencoder.latent_mean, model.autoencoder.latent_std))
        denoise = clipped(denoise, mean, std, dynamic=sampling.clip == "dynamic")

    # Each sampler's own options.
    options: dict[str, Any] = {"on_step": wanted if on_step else None}
    if sampling.sampler == "ddim":
        options |= {"eta": sampling.eta}
    elif is_ddpm:
        fixed = "beta" if sampling.variance == "beta" else "posterior"
        options |= {"variance": fixed} | steered.for_ddpm

    # From pure noise along the whole grid, unless an edit changes that.
    plain = guided(model, Guidance(), policy).denoise
    grid = model.grid(sampling.num_steps, sampling.spacing, sampling.shift, shape)
    start = Start(rows, denoise, plain, noise("initial noise", 0), grid, model.schedule, noise)
    if edit is not None:
        start = edit(start)
    return samplers.walk(
        _SAMPLERS[sampling.sampler],
        start.denoise,
        start.x,
        model.schedule,
        start.times,
        to_device(cond, policy.device),
        noise=lambda step: noise("sampler noise", step),
        **options,
    )
