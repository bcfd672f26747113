"""What to do about what images are like: a line on each matter that training would notice."""

from collections.abc import Sequence

import numpy as np

from ..progress import number_of
from .survey import Survey

_ENLARGED = 0.85  # the least share of a training square's side that an image should have
_MOST = 0.95  # of the images
_SIZES = (16, 32, 64, 128, 256, 512, 1024)
_LOSS = 0.25  # share of an image that the centre crop may cut off without a word
_RATIO = 5.0  # largest class to smallest
_FEW = 100  # images of a class
_ALIKE = 0.05  # by which ratios of width to height may differ from their median, and are still one shape
_MULTIPLE = 16  # pixels, of a width: autoencoders and patches make it smaller together
_SKIPPED = 0.01  # share of images that on_error=skip leaves out


def largest_size(shorter: np.ndarray) -> int:
    """Return the largest training size, pixels, a power of two, that 95 % of shorter sides (N,) all but reach."""
    reached = float(np.quantile(shorter, 1 - _MOST, method="lower")) / _ENLARGED
    return max((size for size in _SIZES if size <= reached), default=_SIZES[0])


def crop_loss(sizes: np.ndarray) -> np.ndarray:
    """Return which share of each image, sizes int64 (N, 2), the centre square leaves out, float (N,)."""
    return 1 - sizes.min(1) / sizes.max(1)


def advise(survey: Survey, counts: np.ndarray, class_names: Sequence[str], image_size: int) -> dict[str, str]:
    """Return a line for each matter, by a word for it.

    counts: training images of each class, int64 (K,). image_size: at which training is meant to be.
    """
    advice: dict[str, str] = {}
    total, num_broken = len(survey), len(survey.broken)
    if total:
        advice |= _on_size(survey, image_size)
    if num_broken and num_broken <= _SKIPPED * (total + num_broken):
        advice["broken"] = "mend or remove them, or train with `data.on_error=skip`"
    elif num_broken:
        advice["broken"] = f"mend or remove them: more than the {_SKIPPED:.0%} that `data.on_error=skip` leaves out"
    advice |= _on_classes(counts, class_names)
    advice |= _on_colour(survey, total)
    if survey.traits["animated"]:
        advice["animated"] = "only first frames are trained on; save other frames as files of their own"
    return advice


def _on_size(survey: Survey, image_size: int) -> dict[str, str]:
    largest = largest_size(survey.shorter)
    advice = {"size": f"the images hold detail up to `data.image_size={largest}`"}
    if image_size > largest:
        advice["size"] += f"; at {image_size} most are enlarged, which adds blur and no detail"
    elif image_size < largest:
        advice["size"] += f"; {image_size} trains faster"
    loss = crop_loss(survey.sizes)
    cut = int((loss > _LOSS).sum())
    if cut > len(loss) / 10:
        advice["crop"] = (
            f"of {cut:,} images the centre crop cuts off more than {_LOSS:.0%}; crop them yourself if it hurts,"
            f" or train with {_uncut(survey.sizes, image_size)}"
        )
    return advice


def _uncut(sizes: np.ndarray, image_size: int) -> str:
    """Return the settings by which less of the images, sizes int64 (N, 2), is lost: their own shape if it is one."""
    ratios = sizes[:, 0] / sizes[:, 1]
    median = float(np.median(ratios))
    width = _MULTIPLE * round(image_size * median / _MULTIPLE)
    if width < _MULTIPLE or np.mean(np.abs(ratios / median - 1) <= _ALIKE) < _MOST:
        return "data.fit=pad"
    return f"`data.image_width={width}`, which is their shape at a height of {image_size}"


def _on_classes(counts: np.ndarray, class_names: Sequence[str]) -> dict[str, str]:
    advice = {}
    if len(counts) < 2:
        advice["classes"] = (
            "one class: samples cannot be asked for by class, and train-classifier has nothing to distinguish"
        )
    elif counts.min() and counts.max() / counts.min() > _RATIO:
        least, most = class_names[int(counts.argmin())], class_names[int(counts.argmax())]
        advice["balance"] = (
            f"{most} has {counts.max() / counts.min():.0f} times the images of {least}: rare classes are learnt less;"
            " add images, or train with `train.balance=sqrt`, by which they are seen more often"
        )
    few = [name for name, count in zip(class_names, counts.tolist(), strict=True) if 0 < count < _FEW]
    if few:
        which = f"{len(few):,} classes have" if len(few) > 1 else f"{few[0]} has"
        advice["few"] = f"{which} fewer than {_FEW} images: expect those images themselves, not new ones"
    return advice


def _on_colour(survey: Survey, total: int) -> dict[str, str]:
    grey = sum(count for mode, count in survey.modes.items() if mode in ("1", "L", "LA", "L;16", "I;16"))
    grey += survey.traits["colourless"]
    advice = {}
    if 0 < grey < total:
        advice["grey"] = f"{grey:,} of {number_of(total, 'image')} are grey: so will samples be now and then"
    elif grey:
        advice["grey"] = "all images are grey, and so will samples be, nearly; exactly with data.channels=1"
    if dark := survey.traits["dark"]:
        advice["dark"] = (
            f"{dark:,} of {total:,} images are nearly black: none of their values is above an eighth of the range, as"
            " when 12 bits are stored in 16; multiply them, or they train as they are"
        )
    if survey.traits["alpha"]:
        advice["alpha"] = (
            "see-through parts become white; data.background=black or '#rrggbb' is another choice, and data.channels=4"
            " trains on transparency too"
        )
    return advice
