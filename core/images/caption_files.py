"""Files that hold the captions of many images: which are taken for such, and what they say of which image."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from ..errors import DataError, as_data_error
from .dataset import Others
from .parts import part_named

_TABLE = re.compile(
    r"(metadata|captions)\.(jsonl|csv|json)|captions\.(txt|token)|flickr(8k|30k)\.(lemma\.)?token(\.txt)?"
    r"|results_\d+\.token|captions_\w+\.json",
    re.IGNORECASE,
)
_OF_PARTS = re.compile(
    r"dataset(_\w+)?\.json|karpathy\w*\.json|(train|training|val|valid|validation|dev|test)\.jsonl", re.IGNORECASE
)
_NAMES = ("file_name", "filename", "image", "image_path", "path", "key")
_TEXTS = ("text", "caption", "captions", "texts", "sentence", "sentences", "description", "prompt")
_REMEDY = 'write {"file_name": "photo.jpg", "text": "a photo"} a line, in a .jsonl file'
_SPLITS = {"restval": "train"}  # of Karpathy & Fei-Fei 2015: images beside the validation set, which all train on


class Record(NamedTuple):
    """Captions of an image, and where they stand. split: the part of the data, where the file says one."""

    name: str
    texts: tuple[object, ...]
    place: str
    split: str | None = None


def may_hold_captions(name: str) -> bool:
    """Return whether a file's name is one of those under which captions are kept."""
    return _TABLE.fullmatch(PurePosixPath(name).name) is not None or may_divide(name)


def may_divide(name: str) -> bool:
    """Return whether a file's name is one of those that also say which part of the data an image is of."""
    return _OF_PARTS.fullmatch(PurePosixPath(name).name) is not None


@lru_cache(maxsize=2)
def tables_beside(others: Others, location: str) -> tuple[Record, ...]:
    """Read every file beside images that is named as captions are; nothing of those that hold something else.

    Names of images are those below the file's own folder, as far as `finder` knows.
    """
    return tuple(
        each for name in sorted(filter(may_hold_captions, others.names)) for each in _table(name, others, location)
    )


def _table(name: str, others: Others, location: str) -> Iterator[Record]:
    place, folder = f"{location}: {name}", PurePosixPath(name).parent
    part = part_named(PurePosixPath(name).stem) if name.endswith(".jsonl") and may_divide(name) else None
    for record in read_captions(decoded(others.read(name), place), place):
        below = (folder / record.name).as_posix()
        yield record._replace(name=below, split=part[0] if part else record.split)


def finder(records: Sequence[Record]) -> Callable[[str], Sequence[Record]]:
    """Return what finds the records of an image, by its whole name, by the end of it, or by its file's name alone.

    A name that ends as no image's does, as one of Flickr's list (`.jpg.1`), is taken without that end.
    """
    by_name: dict[str, list[Record]] = {}
    for record in records:
        by_name.setdefault(record.name.removeprefix("./"), []).append(record)
    by_file: dict[str, set[str]] = {}
    for name in by_name:
        file = PurePosixPath(name).name
        for spelled in {file, re.sub(r"\.\d+$", "", file)}:
            by_file.setdefault(spelled, set()).add(name)

    def find(name: str) -> Sequence[Record]:
        parts = name.split("/")
        for start in range(len(parts)):
            if found := by_name.get("/".join(parts[start:])):
                return found
        alike = by_file.get(parts[-1], set())
        return by_name[next(iter(alike))] if len(alike) == 1 else ()

    return find


def decoded(data: bytes, place: str) -> str:
    """Return the text of a file; DataError naming it and the first byte that is no UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{place} is not UTF-8 text: byte {data[error.start]:#04x} at {error.start:,}"
        raise DataError(message, "save it as UTF-8") from None


def read_captions(text: str, place: str) -> list[Record]:
    """Read the captions of a file by its ending, and by what it holds; none where it holds something else.

    JSON Lines and CSV with a name and one or more captions a row; COCO's annotations; Karpathy's splits; JSON that maps
    names to captions; Flickr's `name.jpg#0<tab>caption`. Raises DataError for a file that cannot be parsed.
    """
    ending = PurePosixPath(place).suffix.lower()
    if ending == ".jsonl":
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        rows = ((_parsed(line, f"{place} line {number}"), f"{place} line {number}") for number, line in lines)
        return [*_of_rows(rows)]
    if ending == ".json":
        return [*_of_json(_parsed(text, place), place)]
    if ending == ".csv" or ("," in text.partition("\n")[0] and "\t" not in text.partition("\n")[0]):
        return [*_of_rows(_csv_rows(text, place))]
    return [*_of_lines(text, place)]


def captions_in_json(text: str, place: str) -> tuple[object, ...]:
    """Return the captions in the JSON of one image, as img2dataset writes it; none where it holds others things."""
    found = _parsed(text, place)
    return _several(_first(found, _TEXTS)) if isinstance(found, dict) else ()


def _parsed(text: str, place: str) -> Any:
    with as_data_error(f"{place} is not valid JSON", _REMEDY):
        return json.loads(text)


def _csv_rows(text: str, place: str) -> Iterator[tuple[Any, str]]:
    with as_data_error(f"{place} is not valid CSV", "save it with a header of file_name,text"):
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        for row in rows:
            yield row, f"{place} line {rows.line_num}"


def _of_rows(rows: Iterable[tuple[Any, str]]) -> Iterator[Record]:
    """Yield the records of objects with a name and captions; nothing where the first has no captions.

    A later one without is passed over: its image has no captions here.
    """
    for number, (row, place) in enumerate(rows):
        names, texts = (_first(row, keys) if isinstance(row, dict) else None for keys in (_NAMES, _TEXTS))
        if texts is None and isinstance(row, dict) and not any(key in row for key in _TEXTS):
            if number == 0:
                return
            continue
        if not isinstance(names, str) or not names:
            raise DataError(f"{place} names no image", _REMEDY)
        yield Record(names, _several(texts), place)


def _first(row: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _several(texts: Any) -> tuple[object, ...]:
    """Return captions that are one text, a list of them, or a list of objects with one each."""
    if not isinstance(texts, list):
        return () if texts is None else (texts,)
    return tuple(_first(each, ("raw", *_TEXTS)) if isinstance(each, dict) else each for each in texts)


def _of_json(found: Any, place: str) -> Iterator[Record]:
    if isinstance(found, list):
        yield from _of_rows((row, f"{place} entry {number}") for number, row in enumerate(found, 1))
    elif isinstance(found, dict) and isinstance(found.get("images"), list):
        images = [image for image in found["images"] if isinstance(image, dict)]
        if isinstance(found.get("annotations"), list):
            yield from _of_coco(images, found["annotations"], place)
        else:
            for image in images:
                if isinstance(name := _first(image, _NAMES), str) and "sentences" in image:
                    split = str(image.get("split", "")) or None
                    yield Record(name, _several(image["sentences"]), f"{place}, {name}", _SPLITS.get(str(split), split))
    elif isinstance(found, dict) and all(isinstance(value, str | list) for value in found.values()):
        for name, texts in found.items():
            yield Record(name, _several(texts), f"{place}, {name}")


def _of_coco(images: list[dict[str, Any]], annotations: list[Any], place: str) -> Iterator[Record]:
    """Yield the captions of COCO's annotations, which name images by number; nothing where they are boxes."""
    texts: dict[Any, list[object]] = {}
    for annotation in annotations:
        if isinstance(annotation, dict) and "caption" in annotation:
            with as_data_error(f"{place}: an annotation names no image", "mend or remove it"):
                texts.setdefault(annotation["image_id"], []).append(annotation["caption"])
    for image in images:
        name, number = _first(image, _NAMES), image.get("id")
        if isinstance(name, str) and isinstance(number, int | str) and number in texts:
            yield Record(name, tuple(texts[number]), f"{place}, {name}")


def _of_lines(text: str, place: str) -> Iterator[Record]:
    """Yield the captions of lines with a name, perhaps a number after #, a tab, and a caption."""
    found: dict[str, list[object]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        name, tab, caption = line.rstrip("\r").partition("\t")
        if tab:
            found.setdefault(re.sub(r"#\d+$", "", name), []).append(caption)
        elif line.strip():
            if not found:
                return  # text of another kind
            raise DataError(f"{place} line {number} has no tab between a name and a caption: {line[:40]!r}", "mend it")
    for name, texts in found.items():
        yield Record(name, tuple(texts), f"{place}, {name}")
