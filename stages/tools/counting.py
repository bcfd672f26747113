"""How many images an estimate is of, and what they come with, as far as is known without reading them."""

from dataclasses import dataclass

from ...core.conditioning.attributes import AttributeConditioning, Number
from ...core.errors import ConfigError, DataError
from ...core.images.captions import has_captions
from ...core.images.dataset import ImageSource
from ...core.images.sets import exclusion_of
from ...core.images.settings import Data
from ...core.images.sources import open_parts, open_source, open_splits, own_held_out
from ...core.latents.attributes import TABLE, read_table
from ..configs.estimate import Estimate

ASSUMED_CLASSES = 10
ASSUMED_LABELS = 10


@dataclass(frozen=True)
class CountedImages:
    """Images that need not be there.

    train, val: how many are trained on and held out, None where they cannot be counted. captioned: whether they have
    captions and no classes. attributes: labels and numbers that they are conditioned on, where that is asked for.
    """

    train: int | None
    val: int | None
    class_names: tuple[str, ...]
    captioned: bool
    attributes: AttributeConditioning | None


def count_images(how: Estimate, data: Data, have_attributes: bool, notes: list[str]) -> CountedImages:
    """Count training and held-out images without reading any, and name their classes, or what else they come with.

    have_attributes: whether they are to be conditioned on labels and numbers. notes: what is assumed is added to them.
    """
    captioned = False
    attributes: AttributeConditioning | None = None
    train: int | None = None
    val: int | None = None
    names: tuple[str, ...] | None = None
    try:
        if data.source is not None:
            train, val, source = _counts(data, data.source)
            names = source.class_names
            captioned = has_captions(source, data) and not source.labelled and how.classes is None
            attributes = _attributes(source) if have_attributes else None
    except (DataError, ConfigError) as error:
        notes.append(f"the images are not available ({error.message})")
    if how.dataset is not None:
        train, val = how.dataset, round(how.dataset * data.val_fraction)
    if train is None:
        notes.append("the number of images is unknown: what depends on it is left out; give --dataset N")
    if how.classes is None and names is None:
        notes.append(f"the number of classes is unknown: {ASSUMED_CLASSES} assumed; give --classes N")
    if how.classes is not None or names is None:
        names = tuple(f"class {number}" for number in range(how.classes or ASSUMED_CLASSES))
    if have_attributes and attributes is None:
        notes.append(f"what {TABLE} has is unknown: {ASSUMED_LABELS} labels and numbers assumed")
        attributes = AttributeConditioning(tuple(f"label {number}" for number in range(ASSUMED_LABELS)))
    return CountedImages(train, val, names, captioned and not have_attributes, attributes)


def _attributes(source: ImageSource) -> AttributeConditioning:
    """Return the labels and numbers that the images' `labels.csv` names."""
    rows = [*read_table(source).values()]
    labels = sorted({label for row in rows for label in row.labels})
    numbers = rows[0].numbers if rows else ()
    return AttributeConditioning(tuple(labels), tuple(Number(name, 0, 1, 0.5) for name in numbers))


def _counts(data: Data, location: str) -> tuple[int, int, ImageSource]:
    """Return how many images are trained on and held out, as training would open them, and some of them.

    How many are held out of images that come as one part is taken from the fraction: the choice would read them all.
    """
    exclude = exclusion_of(data)
    if data.validation is not None or own_held_out(location):
        train, val = open_splits(location, data.validation, data.val_fraction, exclude, data.masks)
        return len(train), len(val), train
    source = open_source(location)
    if exclude is not None:
        ((_, source),) = exclude.leave_out([("all", source)], lambda: [*open_parts(location).items()])
    held_out = round(len(source) * data.val_fraction)
    return len(source) - held_out, held_out, source
