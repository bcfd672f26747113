"""Captions of images: where they are kept, read as one or more texts for each image."""

import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ..errors import ConfigError, DataError
from .dataset import Captions, ImageSource, Others, is_text, listed, num_workers
from .listing import SIDECARS, stem_of
from .settings import Data

AUTO, NONE = "auto", "none"
MOST_CAPTIONS = 255  # of one image
LONGEST = 10_000  # letters of a caption
_REMEDY = "write its captions, leave the image out by `data.exclude`, or use none: `data.captions=none`"


def has_captions(source: ImageSource, data: Data) -> bool:
    """Return whether a source comes with captions, as far as settings and the names of its files say."""
    if data.captions == NONE:
        return False
    if data.captions != AUTO or data.caption_template is not None or source.captions is not None:
        return True
    return source.others is not None and any(_sidecar(name, source.others) for name in source.names)


def with_captions(sources: Sequence[ImageSource], data: Data) -> list[ImageSource]:
    """Return the sources with the captions of their images.

    Raises ConfigError where `data` asks for two kinds of captions, DataError where there are none, for an image
    without captions, and for a file that holds none or no text.
    """
    return [_captioned(source, data) for source in sources]


def _captioned(source: ImageSource, data: Data) -> ImageSource:
    if data.caption_template is not None:
        if data.captions != AUTO:
            raise ConfigError(
                f"`data.caption_template={data.caption_template}` makes captions of class names, and"
                f" `data.captions={data.captions}` reads others",
                "leave out one of the two",
            )
        return replace(source, captions=_of_classes(source, data.caption_template), synthetic=None)
    if source.captions is not None:
        return source
    if not has_captions(source, data):
        remedy = "put a text file beside each image (photo.jpg, photo.txt), or make captions of class names:"
        message = f"{source.location} has no captions"
        raise DataError(message, f"{remedy} `data.caption_template=a photo of a {{class}}`")
    assert source.others is not None
    return replace(source, captions=_beside(source, source.others))


def _of_classes(source: ImageSource, template: str) -> Captions:
    """Return one caption for each image, of the name of its class."""
    if not source.labelled:
        message = f"{source.location} has no classes to name in `data.caption_template={template}`"
        raise DataError(message, "sort the images into class folders, or leave the template out")
    by_class = [tidy([template.replace("{class}", name)], f"class {name}") for name in source.class_names]
    return [by_class[label] for label in source.labels]


def _sidecar(name: str, others: Others) -> str | None:
    """Return the file with an image's captions, which has the same stem."""
    return next((stem_of(name) + end for end in SIDECARS if stem_of(name) + end in others.names), None)


def _beside(source: ImageSource, others: Others) -> Captions:
    """Read the text file beside each image: every line that is not blank is a caption of it."""
    files = [_sidecar(name, others) for name in source.names]
    without = [name for name, file in zip(source.names, files, strict=True) if file is None]
    if without:
        raise DataError(f"{source.location} has no captions of {listed(without, 3)}, while others have", _REMEDY)

    def read(file: str) -> tuple[str, ...]:
        place = f"{source.location}: {file}"
        return tidy(decoded(others.read(file), place).split("\n"), place)

    with ThreadPoolExecutor(num_workers()) as pool:
        return list(pool.map(read, filter(None, files)))


def decoded(data: bytes, place: str) -> str:
    """Return the text of a file; DataError naming it and the first byte that is no UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{place} is not UTF-8 text: byte {data[error.start]:#04x} at {error.start:,}"
        raise DataError(message, "save it as UTF-8") from None


def tidy(texts: Sequence[object], place: str) -> tuple[str, ...]:
    """Return an image's captions in Unicode's composed form (NFC), without blank ones and spaces around them.

    Raises DataError naming the place for no captions, too many, one that is too long, and what is no text.
    """
    kept = []
    for text in texts:
        if not isinstance(text, str) or not is_text(text) or "\0" in text:
            raise DataError(f"{place}: a caption is no text: {str(text)[:40]!r}", "mend or remove it")
        if text.strip():
            kept.append(unicodedata.normalize("NFC", text.strip()))
    if not kept:
        raise DataError(f"{place} holds no caption", _REMEDY)
    if len(kept) > MOST_CAPTIONS:
        raise DataError(f"{place} holds {len(kept):,} captions of one image", f"keep at most {MOST_CAPTIONS}")
    if (longest := max(kept, key=len)) and len(longest) > LONGEST:
        message = f"{place}: a caption has {len(longest):,} letters: {longest[:40]!r}…"
        raise DataError(message, f"shorten it to at most {LONGEST:,}; models read some dozens of words")
    return tuple(kept)
