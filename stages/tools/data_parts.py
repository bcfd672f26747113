"""The images that `ldm data inspect` and `ldm data dedup` look at: every part, as training would take it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from ...core.errors import DataError
from ...core.images.dataset import ImageSource
from ...core.images.exclusion import Exclusion, read_exclusion, shared_names
from ...core.images.reading import read_each
from ...core.images.settings import Data
from ...core.images.sources import held_out_part, open_parts, split_by_fraction
from ...core.progress import Progress
from ..configs.data_tools import LookingAtData

T = TypeVar("T")
Parts = list[tuple[str, ImageSource]]  # the first one is trained on; "all" where training would split it
TRAINED = ("all", "train")
_WARNED = 20  # images, of those that cannot be decoded


def opened_images(config: LookingAtData) -> tuple["Catalogue", Exclusion | None]:
    """Open the parts of the data, what is trained on first, without what is to be left out.

    With images held out elsewhere, those take the place of the data's own parts, as in training.
    """
    found = open_parts(config.source)
    parts = sorted(found.items(), key=lambda item: item[0] not in TRAINED)
    if config.validation is not None:
        others = open_parts(config.validation)
        parts = [parts[0], ("val", others[held_out_part(others, config.validation)])]
    if config.exclude is None:
        return Catalogue(parts, shared_names(parts)), None
    exclude = read_exclusion(config.exclude)
    left = exclude.leave_out(parts, lambda: [*found.items()])
    return Catalogue(left, shared_names(parts)), exclude


@dataclass(frozen=True)
class Catalogue:
    """All images of all parts under one count, in the order of the parts.

    shared: names that alone do not say which image is meant, among all images there are: also those that were left out
    already, as training reads a list against all of them.
    """

    parts: Parts
    shared: frozenset[str]

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def starts(self) -> np.ndarray:
        """The row with which each part begins, and the end, int64 (parts + 1,)."""
        return np.cumsum([0, *(len(source) for _, source in self.parts)])

    def at(self, row: int) -> tuple[str, ImageSource, int]:
        """Return the part, source and index of an image."""
        place = int(np.searchsorted(self.starts, row, side="right")) - 1
        return *self.parts[place], row - int(self.starts[place])

    def name(self, row: int) -> str:
        """Return what an image is called on a list of images to leave out."""
        part, source, index = self.at(row)
        name = source.names[index]
        return f"{part}/{name}" if name in self.shared else name

    def class_name(self, row: int) -> str | None:
        """Return the class of an image; None where images have no labels."""
        _, source, index = self.at(row)
        return source.class_names[source.labels[index]] if source.labelled else None


def read_all(
    parts: Parts, work: Callable[[ImageSource, int, "bytes | np.ndarray"], T], progress: Progress, title: str
) -> Iterator[tuple[str, ImageSource, int, T | DataError]]:
    """Yield (part, source, index, result) of every image, and report progress. See `reading.read_each`.

    The first few that cannot be decoded are warned of.
    """
    progress.start(title, sum(len(source) for _, source in parts), "images")
    done = broken = 0
    for part, source in parts:
        for index, result in enumerate(read_each(source, lambda i, content, of=source: work(of, i, content))):  # type: ignore[misc]
            if isinstance(result, DataError):
                broken += 1
                if broken <= _WARNED:
                    progress.warn(shown(result.message, 300))
                elif broken == _WARNED + 1:
                    progress.warn("further images that cannot be decoded are only counted")
            yield part, source, index, result
            done += 1
            progress.update(done)
    progress.finish()


def own_split(source: ImageSource) -> tuple[ImageSource, ImageSource]:
    """Return the training and validation images of a source that training splits itself; DataError for too few."""
    return split_by_fraction(source, float(Data.model_fields["val_fraction"].default))


def counted(parts: Parts) -> str:
    """Return how many images each part has, in words."""
    return ", ".join(f"{len(source):,}" + f" in {part}" * (part != "all") for part, source in parts)


def shown(name: str, room: int = 60) -> str:
    """Return a name as one line may show it: bytes that are not text and control characters as escapes, shortened."""
    text = name.encode("utf-8", "backslashreplace").decode("utf-8")
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return text if len(text) <= room else f"…{text[1 - room :]}"


def listed(names: list[str], total: int, limit: int = 3) -> str:
    """Return the first of some names in words, and how many more there are."""
    some = ", ".join(shown(name) for name in names[:limit])
    return f"{some} and {total - limit:,} more" if total > limit else some
