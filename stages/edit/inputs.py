"""What `ldm edit` is given: images and a mask, or an edit to draw again, and what edits them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...core.errors import ConfigError, DataError
from ...core.images.dataset import ImageSource
from ...core.images.decode import decode
from ...core.images.given import open_given
from ...core.images.loader import Preparation
from ...core.images.masks import Masked, boxed, masked_by, outpainted, require_inside, unmasked
from ...core.images.parameters import Origin, read_parameters
from ...core.pipeline.again import like
from ...core.pipeline.drawing import OpenedDenoiser
from ...core.pipeline.generator import Opened, refuse_settings
from ...core.pipeline.loading import refuse_student, require_denoising
from ...core.pipeline.token_drawing import OpenedNextScale
from ..configs import Edit
from ..configs.editing import KeptScales, Renoising


@dataclass(frozen=True)
class Inputs:
    """The images to edit and the mask, read as squares when their turn comes."""

    config: Edit
    source: ImageSource
    mask: np.ndarray | None
    prepare: Preparation

    def check(self, index: int, picture: Image.Image) -> None:
        """Raise DataError for an image that cannot be edited so: that lacks the box."""
        if self.config.box is not None:
            require_inside(picture, self.config.box, self.source.names[index])

    def square(self, index: int) -> Masked:
        """Return an image and its mask. Raises DataError naming it where it cannot be decoded, or lacks the box."""
        picture = self.source.picture(index, self.prepare.behind)
        if self.config.box is not None:
            return boxed(picture, self.config.box, self.prepare, self.source.names[index])
        if self.config.outpaint is not None:
            return outpainted(picture, self.config.margins, self.prepare)
        if self.mask is not None:
            return masked_by(picture, self.mask, self.prepare)
        return unmasked(picture, self.prepare)


def images_of(config: Edit) -> tuple[Edit, ImageSource]:
    """Open the images to edit; of an edit to draw again the one that it was made of, with the settings of the edit.

    Raises DataError naming the image or the mask that is not among what was given.
    """
    if config.like is None:
        return config, open_given(config.images)
    edit = config.like
    config = like(edit, config, num=1)
    origins = read_parameters(edit).origins
    if "mask" in origins and not config.masked:
        raise _missing(edit, "mask", origins["mask"])
    source = open_given(config.images) if config.images else None
    hashes = [found.hex() for found in source.content_hashes()] if source else []
    if "image" not in origins or source is None or origins["image"].sha256 not in hashes:
        raise _missing(edit, "image", origins.get("image"))
    return config, source.subset([hashes.index(origins["image"].sha256)])


def _missing(edit: Path, role: str, origin: Origin | None) -> DataError:
    """Return the error for what an edit was made of, and is not given."""
    if origin is None:
        return DataError(f"the parameters of {edit} are damaged: they name no {role}", "give another image")
    setting = {"image": "images", "mask": "mask"}[role]
    message = f"{edit} was made of the {role} {origin.name} (sha256 {origin.sha256[:12]}), which is not given"
    return DataError(message, f"give that file: `{setting}={origin.name}`")


def check_editor(config: Edit, opened: Opened) -> None:
    """Refuse a generator that cannot edit, and the settings of another kind. Raises ConfigError."""
    if isinstance(opened, OpenedDenoiser):
        refuse_settings(config, KeptScales, (), "a denoiser")
        if config.inversion:
            require_denoising(opened.source)
            refuse_student(opened.source)
        last = opened.sampling.num_steps
        if max(config.start_index or (0,)) > last:
            given = max(config.start_index or ())
            raise ConfigError(f"`start_index={given}` is beyond the last step, {last}", "give less")
    elif isinstance(opened, OpenedNextScale):
        refuse_settings(config, Renoising, (), "a next-scale transformer")
        scales = len(opened.source.metadata["scales"])
        if max(config.keep_scales or (0,)) > scales:
            raise ConfigError(f"`keep_scales={max(config.keep_scales or ())}`: there are {scales}", "give fewer")
    else:
        raise ConfigError(f"{opened.source.path} does not edit images", "name a denoiser by `denoiser`")


def mask_of(config: Edit) -> np.ndarray | None:
    """Read the mask: uint8 (H, W), the mean of its colours."""
    if config.mask is None:
        return None
    if not config.mask.is_file():
        raise ConfigError(f"`mask={config.mask}` is not a file", "give a picture")
    levels = decode(config.mask.read_bytes(), str(config.mask)).mean(axis=2).round().astype(np.uint8)
    return 255 - levels if config.invert_mask else levels
