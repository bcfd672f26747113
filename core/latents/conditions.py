"""Conditions that images come with besides their classes: how they get from the data into samples of latents.

A kind is a class with the members of `ImageCondition` and a line in `KINDS`. `encode` writes its fields into shards;
training on images that need no shards reads the same fields.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch

from ..conditioning.attributes import ATTRIBUTES
from ..conditioning.captions import Fields
from ..conditioning.conditioning import Conditioning
from ..conditioning.text import TEXT
from ..images.dataset import ImageSource
from ..images.sets import ImageSources
from ..progress import Progress
from .attributes import Attributes, asks_for_attributes
from .captions import Captions, reads_captions


class ImageCondition(Protocol):
    """A kind of condition, read for the images of a stage.

    mirrors: whether a mirrored image has the same condition. images: with what conditions them.
    """

    mirrors: ClassVar[bool]
    images: ImageSources

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """What it was read from, besides the images, as inputs of a stage."""

    @property
    def fingerprint(self) -> str:
        """That of the input that its fields come from."""

    def conditioning(self, train: ImageSource, val: ImageSource, progress: Progress | None = None) -> Conditioning:
        """Return the conditioning of these images, which manifests record. progress: is warned of what is left out."""

    def names(self, conditioning: Conditioning) -> tuple[str, ...]:
        """Return the names of the fields that samples have of it."""

    def fields(self, conditioning: Conditioning, source: ImageSource) -> Callable[[Sequence[int]], list[Fields]]:
        """Return what gives the fields of a source's images, by their indices."""

    def summary(self, conditioning: Conditioning, source: ImageSource) -> dict[str, str]:
        """Return the rows about a source's conditions that `encode` shows."""


@dataclass(frozen=True)
class Kind:
    """How a kind is chosen and read.

    asked: whether images are to be conditioned so; its second argument is the name of the kind that was asked for, or
    another word, which leaves the choice to the data. read: reads it for the images, with the section of that name of
    the settings, if there is one, on a device.
    """

    asked: Callable[[ImageSources, str], bool]
    read: Callable[[ImageSources, Any, torch.device], ImageCondition]


# By the kind of the conditioning that it makes.
KINDS: Mapping[str, Kind] = {
    ATTRIBUTES: Kind(asks_for_attributes, Attributes),
    TEXT: Kind(reads_captions, Captions),
}


def condition_of(
    images: ImageSources, kind: str, settings: object = None, device: torch.device | str = "cpu"
) -> ImageCondition | None:
    """Read the condition of images that was asked for, or that they come with; None for labels or nothing.

    settings: of the stage.
    """
    for name, each in KINDS.items():
        if each.asked(images, kind):
            return each.read(images, getattr(settings, name, None), torch.device(device))
    return None


def condition_again(images: ImageSources, conditioning: Conditioning) -> ImageCondition | None:
    """Read the condition of images that a training recorded; None for labels or nothing."""
    kind = KINDS.get(conditioning.kind)
    return None if kind is None else kind.read(images, None, torch.device("cpu"))
