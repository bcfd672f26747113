"""A run opened for drawing from Python: `ldm.open`. Nothing is written; networks stay loaded between calls."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch import Tensor

from ..conditioning.conditioning import ALL, Conditioning, Request
from ..diffusion import conditions
from ..errors import ConfigError
from ..files import read_plain
from ..images.decode import WHITE, decode_picture, in_mode, opaque, picture_of
from ..images.masks import Masked, masked_by, unmasked
from ..runs.outputs import machine_policy
from ..runs.run import StageRun
from ..runs.schemas import first_wrong
from ..system.transfer import to_device
from .drawing import DenoisingGenerator
from .editing import Change, Kept, edited, keep_known, requested
from .generator import Generator, Loaded, Opened, open_generator
from .settings import Asking, Drawing
from .token_drawing import TokenGenerator
from .training_data import preparation_of_training

Picture = str | Path | Image.Image | np.ndarray
"""A file, a picture of Pillow, or uint8 (H, W, 3)."""


class _Call(Drawing, Asking):
    """The settings of one call."""

    command: ClassVar[str] = "sample"
    kind: ClassVar[str] = "samples"


class Session:
    """A run's generator. Settings of calls are those of `ldm sample`: `cfg`, `sampler`, `steps`, `denoiser`, …

    Raises ConfigError and DataError as the commands do.
    """

    def __init__(self, run: Path, checkpoint: str = "final", **machine: Any) -> None:
        self._place = {"runs_dir": run.parent, "name": run.name, "machine": machine, "checkpoint": checkpoint}
        self._loaded = Loaded()
        self._policy = machine_policy(self._settings({}).machine)
        open_generator(self._settings({}))  # or an error

    def sample(self, classes: str | Sequence[str] = "all", seeds: Sequence[int] = (0,), **settings: Any) -> np.ndarray:
        """Draw images, uint8 (N, H, W, C): of each class or prompt all seeds, one after the other.

        classes: as `--class` of `ldm sample`; of a model of captions a prompt, or several. Leave it out for a model of
        neither. An image is that of `ldm sample` with the same settings and seed.
        """
        wanted = settings.pop("prompt", classes)
        opened, generator = self._generator(settings)
        request = opened.conditioning.request(_asked(opened.conditioning, wanted))
        rows = np.repeat(np.arange(len(request.titles)), len(seeds))
        drawn = np.tile(np.asarray(seeds, dtype=np.int64), len(request.titles))
        return generator.draw(conditions.index(request.cond, rows), drawn)

    def edit(
        self,
        image: Picture,
        classes: str | None = None,
        *,
        strength: float = 0.6,
        keep_scales: int = 0,
        mask: Picture | None = None,
        seeds: Sequence[int] = (0,),
        feather: int = 2,
        **settings: Any,
    ) -> np.ndarray:
        """Draw edits of an image, uint8 (N, H, W, C), as `ldm edit` does: of each class all seeds.

        classes: class or prompt to edit towards; without, the unconditional model. strength: the noise time to start
        from, 0 to 1; a generator of tokens has `keep_scales` instead, how many scales of them stay the image's. mask:
        white is drawn anew, black is kept to the byte; feather: pixels over which the new fades in.
        """
        if not 0 <= strength <= 1:
            raise ConfigError(f"`strength={strength:g}` is outside 0 … 1", "give a noise time")
        if classes is None:
            settings = {"cfg": 1.0, **settings}
        opened, generator = self._generator(settings)
        asked = {} if classes is None else _asked(opened.conditioning, classes)
        request: Request = requested(opened, asked)
        rows = np.repeat(np.arange(len(request.titles)), len(seeds))
        change: Change | Kept = Change(strength, masked=mask is not None)
        if isinstance(generator, TokenGenerator):
            change = Kept(keep_scales, masked=mask is not None)
        elif not isinstance(generator, DenoisingGenerator):
            raise ConfigError(f"{opened.source.path} does not edit images", "open a run with a denoiser")
        drawn = np.tile(np.asarray(seeds, dtype=np.int64), len(request.titles))
        squares = [self._square(image, mask, opened.source)] * len(rows)
        pixels = edited(generator, squares, conditions.index(request.cond, rows), drawn, change)
        return keep_known(squares, pixels, feather) if mask is not None else pixels

    def encode(self, images: np.ndarray) -> Tensor:
        """Return normalised latents (B, C, h, w), float32 on the CPU, of images, uint8 (B, H, W, C)."""
        return self._denoising().encode(images).float().cpu()

    def decode(self, latents: Tensor) -> np.ndarray:
        """Return images, uint8 (B, H, W, C), of normalised latents (B, C, h, w)."""
        generator = self._denoising()
        return generator.decode(to_device(latents, generator.policy.device))

    def _denoising(self) -> DenoisingGenerator:
        opened, generator = self._generator({})
        if not isinstance(generator, DenoisingGenerator):
            raise ConfigError(f"{opened.source.path} has no latents of its own", "open a run with a denoiser")
        return generator

    def _settings(self, settings: dict[str, Any]) -> _Call:
        """Check the settings of a call. Raises ConfigError naming the first that is wrong."""
        given = {**self._place, **settings}
        wrong = first_wrong(_Call, given)
        if wrong is not None:
            raise ConfigError(wrong, "see `ldm sample --help`")
        return _Call.model_validate(given)

    def _generator(self, settings: dict[str, Any]) -> tuple[Opened, Generator]:
        """Open what a call draws from; networks of the call before are used again."""
        config = self._settings(settings)
        opened = open_generator(config)
        return opened, self._loaded.generator(opened, config, self._policy)

    def _square(self, image: Picture, mask: Picture | None, generator: StageRun) -> Masked:
        prepare = preparation_of_training(generator, self._settings({}))
        picture = _picture(image, prepare.behind)
        if mask is None:
            return unmasked(picture, prepare)
        return masked_by(picture, np.array(in_mode(_picture(mask), "L")), prepare)


def _asked(conditioning: Conditioning, wanted: str | Sequence[str]) -> dict[str, Any]:
    """Return what is asked for, by the setting of the conditioning; `all` asks for none in particular."""
    return {} if wanted == ALL else {conditioning.asks: wanted}


def _picture(image: Picture, background: tuple[int, int, int] | None = WHITE) -> Image.Image:
    if isinstance(image, str | Path):
        return decode_picture(read_plain(Path(image)), str(image), background)
    picture = picture_of(image) if isinstance(image, np.ndarray) else image
    return opaque(picture, background) if picture.has_transparency_data else in_mode(picture, "RGB")
