"""What captions of images are like, and what is wrong with them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ..conditioning import bpe
from ..errors import DataError
from ..images.caption_files import tables_beside
from ..images.captions import found_captions, has_captions
from ..images.dataset import ImageSource
from ..images.settings import Data

MOST_TOKENS = 77  # of CLIP's text network, its start and end among them


def survey_captions(sources: Sequence[ImageSource], data: Data) -> dict[str, Any] | None:
    """Read the captions of all parts, and count; None where the images have none.

    Returns JSON: `captions` and `images` with some; `missing`, the images without; `wrong`, what is said of files that
    hold no caption, or no text; `stray`, names of which there is no image; `repeated`, captions that another image has
    too, and the most frequent; `per_image`, `words`, `tokens` (of CLIP's byte-pair encoding) as least, median and most;
    `long`, captions over 77 tokens. Raises DataError where no caption belongs to any image.
    """
    if not has_captions(sources[0], data):
        return None
    texts: list[tuple[str, ...]] = []
    missing: list[str] = []
    wrong: list[str] = []
    for source in sources:
        for name, found in zip(source.names, found_captions(source, data), strict=True):
            if found is None:
                missing.append(name)
                continue
            try:
                texts.append(found.captions)
            except DataError as error:
                wrong.append(error.message)
    images_with = Counter(text for each in texts for text in {*each})
    repeated = [(text, count) for text, count in images_with.most_common() if count > 1]
    tokens = np.array([len(bpe.encode(text)) for each in texts for text in each])
    return {
        "captions": len(tokens),
        "images": len(texts),
        "missing": missing,
        "wrong": wrong,
        "stray": _stray(sources),
        "repeated": {"captions": sum(count for _, count in repeated), "most": repeated[:3]},
        "per_image": _span([len(each) for each in texts]),
        "words": _span([len(text.split()) for each in texts for text in each]),
        "tokens": _span(tokens),
        "long": int((tokens > MOST_TOKENS).sum()),
    }


def _span(numbers: Sequence[int] | np.ndarray) -> list[float]:
    """Return the least, the median and the most."""
    return [float(np.min(numbers)), float(np.median(numbers)), float(np.max(numbers))] if len(numbers) else []


def _stray(sources: Sequence[ImageSource]) -> list[str]:
    """Return the names in tables beside the images that no image has, in whatever folder."""
    others = sources[0].others
    records = tables_beside(others, sources[0].location) if others is not None else ()
    known = {PurePosixPath(name).name for source in sources for name in source.names}
    return [name for name in dict.fromkeys(record.name for record in records) if PurePosixPath(name).name not in known]
