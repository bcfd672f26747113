"""Trained generators as sampling and evaluation see them: a denoiser with its sampler, or anything else that draws.

A generator is a directory whose role in `core.runs.roles` names what opens it. Nothing here knows how it draws.
"""

import importlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..conditioning.conditioning import Conditioning
from ..diffusion.conditions import Cond
from ..errors import ConfigError
from ..files import sha256_json
from ..runs.inputs import chosen
from ..runs.roles import any_generator, role_of
from ..runs.run import StageRun, kind_of
from ..settings.fields import Section, Stage, is_incidental
from ..system.precision import Policy
from .settings import Drawing

Look = Callable[[], Mapping[str, np.ndarray]]
"""Returns what there is of images so far, uint8 (B, H, W, C), by its name, what becomes the image first; computed when
called."""
OnStep = Callable[[int, Look], None]
"""step, look → nothing: called after every step of drawing."""


class Generator(Protocol):
    """A trained generator, loaded, with the settings by which it draws."""

    @property
    def at_once(self) -> int:
        """How many images it computes together: fewer take as long."""

    def draw(self, cond: Cond, seeds: np.ndarray, on_step: OnStep | None = None) -> np.ndarray:
        """Return an image for each seed, uint8 (B, H, W, C), of that row of the condition, on the CPU.

        seeds: int64 (B,). An image follows from its condition and its seed, to the bit, whatever is drawn with it.
        on_step: shown every step, of `at_once` images after the other.
        """


class Opened(Protocol):
    """A generator's directory, checked by its manifest against the settings of drawing; nothing is loaded yet."""

    @property
    def source(self) -> StageRun:
        """The directory; its manifest records at least what `schemas.Generator` lists."""

    @property
    def conditioning(self) -> Conditioning:
        """What it draws images for."""

    @property
    def label(self) -> str:
        """Its settings, short, as part of a folder's name."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of drawing by which it draws the same again, JSON, those by default included."""

    @property
    def shows_steps(self) -> bool:
        """Whether it calls `on_step`."""

    @property
    def evaluations(self) -> int:
        """How often its network sees an image until it is drawn; twice a pass where that is guided."""

    def inputs(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Return it, by the name of its role, and what guides it, as inputs of the stage in `folder`."""

    def generator(self, config: Drawing, policy: Policy) -> Generator:
        """Load it, compiled if so wished."""

    def with_settings(self, generator: Generator) -> Generator:
        """Return a generator that was loaded from the same directories with these settings of drawing."""

    def recorded(self, seed: int) -> dict[str, Any]:
        """Return what a manifest records of how images are drawn: `sampler`, `steps`, `cfg`, and all else."""


class Loaded:
    """The generator that was loaded last: what draws from the same directories next uses its networks."""

    def __init__(self) -> None:
        self._last: tuple[str, Generator] | None = None

    def generator(self, opened: Opened, config: Drawing, policy: Policy) -> Generator:
        """Return what `opened` loads, from memory where it is there."""
        # With a cache other parts of a network are compiled.
        key = sha256_json([opened.inputs(Path()), config.machine.model_dump(mode="json"), config.cache > 1])
        if self._last is not None and self._last[0] == key:
            return opened.with_settings(self._last[1])
        self._last = None  # Before the next one takes its memory.
        generator = opened.generator(config, policy)
        self._last = key, generator
        return generator


def open_generator(config: Drawing) -> Opened:
    """Open what the settings draw from, by the role of the directory.

    Raises DataError for one that is missing or damaged, ConfigError for settings that it does not take.
    """
    folder = chosen(any_generator(), config, config.denoiser, "denoiser")
    module, _, name = role_of(kind_of(folder) or folder.name).draws.partition(":")
    opened: Opened = getattr(importlib.import_module(f"..{module}", __package__), name)(config)
    return opened


def refuse_settings(config: Drawing, group: type[Section], but: Collection[str], what: str) -> None:
    """Raise ConfigError for a setting of a group that a generator does not take, and that is not as by default.

    Settings that only say how the work is done are for all. but: those of the group that it takes. what: the generator,
    in words.
    """
    for name, field in group.model_fields.items():
        known = name in but or name in Stage.model_fields or is_incidental(field)
        if not known and getattr(config, name) != field.default:
            message = f"`{name}={getattr(config, name)}` is not a setting of {what}"
            raise ConfigError(message, f"leave it out; it takes {', '.join(but)}" if but else "leave it out")
