"""Edits of images as `generate` takes them: from an image, of a part of it, or from the noise that it came from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from ..autoregressive.sampling import Given
from ..conditioning.conditioning import Conditioning, Request
from ..conditioning.registry import conditioning_of
from ..diffusion import conditions, editing
from ..diffusion.conditions import Cond
from ..errors import ConfigError
from ..images.masks import Masked, feathered, pasted
from ..system.precision import Policy
from ..system.transfer import to_device
from .drawing import DenoisingGenerator, OpenedDenoiser
from .generation import Edit, Start
from .generator import Generator, OnStep, Opened
from .model import Model, one_condition
from .settings import Drawing
from .token_drawing import TokenGenerator

AnyOpened = TypeVar("AnyOpened", bound=Opened)
NO_CONDITION = "no class"


@dataclass(frozen=True)
class Inversion:
    """DDIM inversion: the condition of each image itself, a row each; corrections of each step.

    `edited` takes one row for all images.
    """

    cond: Cond
    refine: int


@dataclass(frozen=True)
class Change:
    """What an edit does.

    strength: the noise time to start from. masked: whether a part is kept. resample, jump: of RePaint. unguided: draws
    without guidance.
    """

    strength: float
    masked: bool = False
    resample: int = 1
    jump: int = 10
    inversion: Inversion | None = None
    unguided: bool = False

    @property
    def key(self) -> tuple[float, bool]:
        """What the images that are drawn together have in common, of the changes of one command."""
        return self.strength, self.unguided


@dataclass(frozen=True)
class Kept:
    """What an edit by tokens does: how many scales are kept from the coarsest, and whether a part of the others is."""

    scales: int
    masked: bool = False

    @property
    def key(self) -> tuple[float, bool]:
        """What the images that are drawn together have in common, of the changes of one command."""
        return self.scales, self.masked


def edited(
    generator: Generator,
    images: Sequence[Masked],
    cond: Cond,
    seeds: np.ndarray,
    change: Change | Kept,
    on_step: OnStep | None = None,
) -> np.ndarray:
    """Draw an edit of each image, uint8 (B, S, S, 3), of its condition and by its seed."""
    if isinstance(change, Kept):
        assert isinstance(generator, TokenGenerator), "a generator of tokens"
        given = given_tokens(generator, images, change)
        return generator.draw(cond, seeds, on_step, given)
    assert isinstance(generator, DenoisingGenerator), "a denoiser"
    if change.inversion is not None:
        own = conditions.index(change.inversion.cond, [0] * len(images))
        change = replace(change, inversion=replace(change.inversion, cond=own))
    edit = edit_of(generator.model, generator.policy, images, change)
    return generator.draw(cond, seeds, on_step, edit)


def given_tokens(generator: TokenGenerator, images: Sequence[Masked], change: Kept) -> Given:
    """Return the tokens of images that are kept: of whole scales, and of the others outside of the masks.

    A token that the new part touches at all is drawn.
    """
    tokens = generator.tokens(np.stack([each.image for each in images]))
    redraw = None
    if change.masked:
        new = torch.from_numpy(np.stack([each.mask > 0 for each in images])[:, None]).to(generator.policy.device)
        redraw = editing.latent_mask(new, generator.autoencoder.downsampling)
    return Given(tokens, change.scales, redraw)


def edit_of(model: Model, policy: Policy, images: Sequence[Masked], change: Change) -> Edit:
    """Return the edit of images, a row each: `Start.rows` count them."""

    def edit(start: Start) -> Start:
        chosen = [images[row] for row in start.rows]
        x0 = model.encode(np.stack([each.image for each in chosen]), policy)

        # Where the path begins, and with which state.
        if change.inversion is None:
            x, times = editing.from_image(x0, start.x, start.schedule, start.times, change.strength)
        else:
            cond = to_device(conditions.index(change.inversion.cond, start.rows), policy.device)
            settings = change.strength, cond, change.inversion.refine
            x, times = editing.inverted(start.plain, x0, start.schedule, start.times, *settings)

        # A part that is kept is put back at every step; jumps back fit the new part to it.
        denoise = start.plain if change.unguided else start.denoise
        if change.masked:
            new = torch.from_numpy(np.stack([each.mask > 0 for each in chosen])[:, None]).to(policy.device)
            cells = editing.latent_mask(new, model.autoencoder.downsampling)
            denoise = editing.inpainting(denoise, x0, cells, start.schedule, lambda n: start.noise("known noise", n))
            times = editing.resampling(times, change.jump, change.resample)
        return replace(start, denoise=denoise, x=x, times=times)

    return edit


def keep_known(images: Sequence[Masked], drawn: np.ndarray, feather: int) -> np.ndarray:
    """Paste what is kept of each image over what was drawn, both uint8 (B, S, S, 3)."""
    pairs = zip(images, drawn, strict=True)
    return np.stack([pasted(each.image, new, feathered(each.mask, feather)) for each, new in pairs])


def open_unguided(open_model: Callable[[Drawing], AnyOpened], config: Drawing) -> AnyOpened:
    """Open a generator without guidance: there is no class to guide towards. Raises ConfigError for a scale."""
    opened = open_model(config.model_copy(update={"cfg": 1.0, "cfg_paper": None}))
    if config.cfg not in (None, 1.0) or config.cfg_paper:
        raise ConfigError(
            "`cfg` guides towards a class or prompt, and none is given",
            f"add `{opened.conditioning.asks}`, or leave it out" if opened.conditioning.fields else "leave it out",
        )
    return opened


def requested(opened: Opened, asked: Mapping[str, str]) -> Request:
    """Return the conditions that were asked for; without any, the null.

    Raises ConfigError where there is no null, and for a guide that does not know it.
    """
    conditioning = opened.conditioning
    if asked or not conditioning.fields:
        return conditioning.request(asked)
    if not conditioning.has_null:
        raise ConfigError(
            "this model was trained with label dropout 0 and draws nothing without a class or prompt",
            f"give `{conditioning.asks}`",
        )
    guides = opened.guides if isinstance(opened, OpenedDenoiser) else {}
    if "classifier" in guides:
        raise ConfigError(
            "`classifier_scale` guides towards a class, and none is given",
            f"add `{conditioning.asks}`, or leave it out",
        )
    if "weak" in guides and not conditioning_of(guides["weak"].metadata).has_null:
        raise ConfigError(
            f"`autoguide={guides['weak'].path}` was trained with label dropout 0 and knows no image without a class or"
            " prompt",
            f"add `{conditioning.asks}`, or name one trained with label dropout",
        )
    return _null(conditioning)


def own_condition(conditioning: Conditioning, named: str | None) -> Request:
    """Return the condition of an image itself, as `from_class` names it; by default the null.

    Raises ConfigError where there is no null, and for several conditions.
    """
    if named:
        return one_condition(conditioning, "from_class", named)
    if not conditioning.fields:
        return conditioning.request({})
    if not conditioning.has_null:
        raise ConfigError(
            "`inversion` takes the class or prompt of the image itself: this model was trained with label dropout 0",
            "give `from_class`",
        )
    return _null(conditioning)


def _null(conditioning: Conditioning) -> Request:
    return Request(conditioning.null(1, torch.device("cpu")), (NO_CONDITION,), ({},))
