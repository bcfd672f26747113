"""Captions of images: where they are kept, read as one or more texts for each image."""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..errors import ConfigError, DataError
from ..files import read_plain
from .caption_files import Record, captions_in_json, decoded, finder, read_captions, tables_beside
from .dataset import Captions, ImageSource, Others, is_text, listed, num_workers
from .listing import SIDECARS, stem_of
from .settings import Data

AUTO, NONE = "auto", "none"
MOST_CAPTIONS = 255  # of one image
LONGEST = 10_000  # letters of a caption
_IN_JSON = ".json"  # ending of files that may hold a caption of the image of the same stem, and more
_REMEDY = "write its captions, leave the image out by `data.exclude`, or use none: `data.captions=none`"
_HOW = "put a text file beside each image (photo.jpg, photo.txt), or a metadata.jsonl with file_name and text"


def has_captions(source: ImageSource, data: Data) -> bool:
    """Return whether a source comes with captions, as settings, names of files and tables of captions say."""
    if data.captions == NONE:
        return False
    if data.captions != AUTO or data.caption_template is not None or source.captions is not None:
        return True
    if source.others is None:
        return False
    return bool(tables_beside(source.others, source.location)) or _beside(source, source.others) is not None


def with_captions(sources: Sequence[ImageSource], data: Data) -> list[ImageSource]:
    """Return the sources with the captions of their images.

    Raises ConfigError where `data` asks for two kinds of captions, DataError where there are none, for an image
    without captions, and for a file that holds none or no text.
    """
    read = [replace(source, captions=_all_captions(source, data)) for source in sources]
    if data.synthetic_captions is None:
        return read
    records = table_at(data.synthetic_captions)
    second = [[() if each is None else each.captions for each in in_table(source, records)] for source in read]
    return [replace(source, synthetic=each) for source, each in zip(read, second, strict=True)]


def _all_captions(source: ImageSource, data: Data) -> Captions:
    found = found_captions(source, data)
    with ThreadPoolExecutor(num_workers()) as pool:
        captions = list(pool.map(lambda each: each and each.captions, found))
    without = [name for name, each in zip(source.names, captions, strict=True) if each is None]
    if without:
        raise DataError(f"{source.location} has no captions of {listed(without, 3)}, while others have", _REMEDY)
    return [each for each in captions if each is not None]


@dataclass(frozen=True)
class Found:
    """Where the captions of an image are, and how to read them, not yet looked at."""

    place: str
    read: Callable[[], Sequence[object]]

    @property
    def captions(self) -> tuple[str, ...]:
        """The captions, checked. Raises DataError naming the place."""
        return tidy(self.read(), self.place)


def found_captions(source: ImageSource, data: Data) -> list[Found | None]:
    """Find the captions of each image; None for images without, of which there are fewer than all.

    Raises ConfigError and DataError as `with_captions` does, but for what single images lack.
    """
    template = data.caption_template
    if data.captions == NONE and template is None:
        raise ConfigError("`data.captions=none` leaves no captions to read", "leave it out")
    if template is not None and data.captions != AUTO:
        message = f"`data.caption_template={template}` makes captions, and `data.captions={data.captions}` reads others"
        raise ConfigError(message, "leave out one of the two")
    if template is not None:
        return [*_of_classes(source, template)]
    if data.captions != AUTO:
        return in_table(source, table_at(Path(data.captions)))
    if source.captions is not None:
        return [Found(source.location, lambda texts=texts: texts) for texts in source.captions]  # type: ignore[misc]
    if source.others is not None:
        if records := tables_beside(source.others, source.location):
            return in_table(source, records)
        if (files := _beside(source, source.others)) is not None:
            return [_found_beside(file, source) for file in files]
    remedy = f"{_HOW}, or make captions of class names: `data.caption_template=a photo of a {{class}}`"
    raise DataError(f"{source.location} has no captions", remedy)


def _of_classes(source: ImageSource, template: str) -> Iterator[Found]:
    """Yield a caption for each image, of the name of its class."""
    if not source.labelled:
        message = f"{source.location} has no classes to name in `data.caption_template={template}`"
        raise DataError(message, "sort the images into class folders, or leave the template out")
    texts = [[template.replace("{class}", name)] for name in source.class_names]
    for label in source.labels:
        yield Found(f"class {source.class_names[label]}", partial(texts.__getitem__, label))


def in_table(source: ImageSource, records: Sequence[Record]) -> list[Found | None]:
    """Find the captions of each image among records that name images. Raises DataError where none names one."""
    find = finder(records)
    found = [find(name) for name in source.names]
    if not any(found):
        named, there = listed([each.name for each in records], 2), listed(source.names, 2)
        message = f"{records[0].place}: no caption is of an image of {source.location}"
        raise DataError(message, f"name images as they are: {there}, not {named}")
    return [Found(each[0].place, partial(_texts, each)) if each else None for each in found]


def _texts(records: Sequence[Record]) -> list[object]:
    return [text for record in records for text in record.texts]


def table_at(path: Path) -> list[Record]:
    """Read a file of captions that was named. Raises DataError where it is not there, or holds none."""
    if not path.is_file():
        raise DataError(f"{path} is not a file", "give a file of captions: .jsonl, .csv, .json or .txt")
    records = read_captions(decoded(read_plain(path), str(path)), str(path))
    if not records:
        raise DataError(f"{path} holds no captions with the names of their images", _HOW)
    return records


def _beside(source: ImageSource, others: Others) -> list[str | None] | None:
    """Return the file with each image's captions, which has the same stem; None where no image has one.

    JSON beside images may be of other things: the first of them decides.
    """
    files = [_sidecar(name, others) for name in source.names]
    some = [file for file in files if file is not None]
    plain = any(not file.endswith(_IN_JSON) for file in some)
    return files if plain or (some and _read_beside(some[0], source)) else None


def _sidecar(name: str, others: Others) -> str | None:
    stem = stem_of(name)
    return next((stem + end for end in (*SIDECARS, _IN_JSON) if stem + end in others.names), None)


def _found_beside(file: str | None, source: ImageSource) -> Found | None:
    return None if file is None else Found(f"{source.location}: {file}", partial(_read_beside, file, source))


def _read_beside(file: str, source: ImageSource) -> Sequence[object]:
    """Read the file beside an image: every line of a text that is not blank is a caption of it."""
    assert source.others is not None
    place = f"{source.location}: {file}"
    text = decoded(source.others.read(file), place)
    return captions_in_json(text, place) if file.endswith(_IN_JSON) else text.split("\n")


def tidy(texts: Sequence[object], place: str) -> tuple[str, ...]:
    """Return an image's captions in Unicode's composed form (NFC), without blank ones and spaces around them.

    Raises DataError naming the place for no captions, too many, one that is too long, and what is not text.
    """
    kept = []
    for text in texts:
        if not isinstance(text, str) or not is_text(text) or "\0" in text:
            raise DataError(f"{place}: a caption is not text: {str(text)[:40]!r}", "mend or remove it")
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
